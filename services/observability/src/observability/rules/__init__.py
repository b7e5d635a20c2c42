"""Files for Prometheus and Alertmanager: recording rules, alerts, notification routes, scrape configuration.

Knows PromQL and YAML. Must not depend on :mod:`observability.dashboards` or :mod:`observability.why_ttft`.
"""
