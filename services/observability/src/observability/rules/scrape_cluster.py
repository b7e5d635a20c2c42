"""Scrape configuration on Kubernetes: the platform's pods, and the cluster that they run on.

Needs no operator. Pods are found by label and named port, which requires a Role in each namespace. Kubelets are found
as nodes and scraped directly, which requires a ClusterRole for `nodes` and `nodes/metrics` (not `nodes/proxy`, which
would also allow commands in containers).
"""

import re
from typing import Any

from observability.rules.cluster_alerts import cluster_alerts
from observability.rules.scrape_local import SCRAPE_SECONDS

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


CLUSTER_JOBS = ("kube-state-metrics", "node-exporter", "kubelet", "cadvisor")
"""Jobs for the cluster itself. Their exporters come from upstream charts; the kubelet is part of every node."""

_CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
_FOREIGN_NAME = re.compile(r"\b(?:kube|container|node|kubelet)_\w+")
_ALSO_KEPT = ("kube_pod_container_resource_requests", "kube_node_info", "container_spec_memory_limit_bytes")
"""Series that runbooks read and no alert."""


def cluster_configuration(rules: str) -> dict[str, Any]:
    """Return prometheus.yml for a cluster; ``rules`` is a pattern of rule files."""
    return {
        "global": {
            "scrape_interval": f"{3 * SCRAPE_SECONDS}s",
            "evaluation_interval": f"{3 * SCRAPE_SECONDS}s",
        },
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]},
        "scrape_configs": [*(_job(*job) for job in JOBS), *_cluster_jobs()],
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
        # The router also names an engine after its pod, so `backend` joins their series.
        relabelings.append({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "backend"})
    job: dict[str, Any] = {
        "job_name": name,
        "metrics_path": path,
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": list(NAMESPACES)}}],
        "relabel_configs": relabelings,
    }
    if name == "dcgm-exporter":
        # The exporter's `pod` and `namespace` labels name the user of the GPU, not the exporter.
        job["honor_labels"] = True
        job["metric_relabel_configs"] = [
            {"source_labels": ["pod"], "regex": "(.+)", "target_label": "backend"},
        ]
    return job


def _cluster_jobs() -> list[dict[str, Any]]:
    return [
        # The labels `namespace`, `pod` and `node` name the described object, so the exporter's own are not added.
        {
            **_exporter("kube-state-metrics", "kube-state-metrics", "http"),
            "honor_labels": True,
            "metric_relabel_configs": [_keep("kube_")],
        },
        {
            **_exporter("node-exporter", "prometheus-node-exporter", "metrics", node=True),
            "metric_relabel_configs": [_keep("node_")],
        },
        {**_kubelet("kubelet", "/metrics"), "metric_relabel_configs": [_keep("kubelet_")]},
        {
            **_kubelet("cadvisor", "/metrics/cadvisor"),
            "honor_labels": True,
            "metric_relabel_configs": [
                _keep("container_"),
                # Totals of whole cgroups have no container label and would count every byte twice.
                {"source_labels": ["container"], "regex": "", "action": "drop"},
            ],
        },
    ]


def _exporter(job: str, name: str, port: str, *, node: bool = False) -> dict[str, Any]:
    """Return the scrape of an exporter's pods; ``node`` adds the label of the node that a pod runs on."""
    relabelings: list[dict[str, Any]] = [
        {
            "source_labels": [
                "__meta_kubernetes_pod_label_app_kubernetes_io_name",
                "__meta_kubernetes_pod_container_port_name",
            ],
            "regex": f"{name};{port}",
            "action": "keep",
        },
        {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "Succeeded|Failed", "action": "drop"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "instance"},
    ]
    if node:
        relabelings.append(
            {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node"},
        )
    return {
        "job_name": job,
        "metrics_path": "/metrics",
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": list(NAMESPACES)}}],
        "relabel_configs": relabelings,
    }


def _kubelet(job: str, path: str) -> dict[str, Any]:
    return {
        "job_name": job,
        "metrics_path": path,
        "scheme": "https",
        "authorization": {"credentials_file": f"{_CREDENTIALS}/token"},
        "tls_config": {"ca_file": f"{_CREDENTIALS}/ca.crt"},
        "kubernetes_sd_configs": [{"role": "node"}],
        "relabel_configs": [
            {"source_labels": ["__meta_kubernetes_node_name"], "target_label": "instance"},
            {"source_labels": ["__meta_kubernetes_node_name"], "target_label": "node"},
        ],
    }


def _keep(prefix: str) -> dict[str, Any]:
    """Keep the series that an alert or a runbook reads: a kubelet exposes thousands of others."""
    read = {name for alert in cluster_alerts() for name in _FOREIGN_NAME.findall(alert.expression)}
    names = sorted(name for name in {*read, *_ALSO_KEPT} if name.startswith(prefix))
    return {"source_labels": ["__name__"], "regex": "|".join(names), "action": "keep"}
