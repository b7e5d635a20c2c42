"""Dashboards: one catalogue of panels, rendered for Grafana and as one HTML page.

Must not depend on :mod:`observability.rules` or :mod:`observability.why_ttft`.
"""
