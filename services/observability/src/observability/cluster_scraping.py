"""What Prometheus scrapes on Kubernetes: pods of the platform, found by their labels and named ports.

Without an operator: the API server says which pods there are, a Role in two namespaces is all it takes.
"""

from typing import Any

from observability.scraping import SCRAPE_SECONDS

NAMESPACES = ("llm", "observability")
# job → (label of the pod, its value, named port, path, whether `backend` is the pod's name)
JOBS = (
    ("edge-gateway", "name", "edge-gateway", "telemetry", "/stats/prometheus", False),
    ("router-service", "name", "router-service", "http", "/metrics", False),
    ("rate-limit-service", "name", "rate-limit-service", "metrics", "/metrics", False),
    ("vllm", "component", "inference-engine", "http", "/metrics", True),
    ("backend-agent", "component", "inference-engine", "agent", "/metrics", True),
    ("redis-exporter", "name", "redis", "metrics", "/metrics", False),
    ("dcgm-exporter", "name", "dcgm-exporter", "metrics", "/metrics", False),
    ("prometheus", "name", "prometheus", "http", "/metrics", False),
    ("alertmanager", "name", "alertmanager", "http", "/metrics", False),
    ("loki", "name", "loki", "http", "/metrics", False),
    ("tempo", "name", "tempo", "http", "/metrics", False),
    ("alloy", "name", "alloy", "http", "/metrics", False),
    ("grafana", "name", "grafana", "http", "/metrics", False),
)


def cluster_configuration(rules: str) -> dict[str, Any]:
    """Return prometheus.yml for a cluster; ``rules`` is a pattern of rule files."""
    return {
        "global": {
            "scrape_interval": f"{3 * SCRAPE_SECONDS}s",
            "evaluation_interval": f"{3 * SCRAPE_SECONDS}s",
        },
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]},
        "scrape_configs": [_job(*job) for job in JOBS],
    }


def _job(name: str, label: str, value: str, port: str, path: str, is_backend: bool) -> dict[str, Any]:
    relabelings: list[dict[str, Any]] = [
        {
            "source_labels": [
                f"__meta_kubernetes_pod_label_app_kubernetes_io_{label}",
                "__meta_kubernetes_pod_container_port_name",
            ],
            "regex": f"{value};{port}",
            "action": "keep",
        },
        # Pods that have ended keep their address for a while.
        {
            "source_labels": ["__meta_kubernetes_pod_phase"],
            "regex": "Succeeded|Failed",
            "action": "drop",
        },
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "instance"},
        {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node"},
    ]
    if is_backend:
        # The router knows an engine by its pod's name too: the same word joins their series.
        relabelings.append({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "backend"})
    job: dict[str, Any] = {
        "job_name": name,
        "metrics_path": path,
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": list(NAMESPACES)}}],
        "relabel_configs": relabelings,
    }
    if name == "dcgm-exporter":
        # Its `pod` and `namespace` say who holds the GPU, not where the exporter runs.
        job["honor_labels"] = True
        job["metric_relabel_configs"] = [
            {"source_labels": ["pod"], "regex": "(.+)", "target_label": "backend"},
        ]
    return job
