"""Scrape configuration of the local stack. Knows addresses, not the meaning of metrics."""

from collections.abc import Mapping
from typing import Any

# job → (port variable, default port, path, labels). The variables are the local stack's.
LOCAL_JOBS: Mapping[str, tuple[str, int, str, Mapping[str, str]]] = {
    "edge-gateway": ("EDGE_TELEMETRY_PORT", 9902, "/stats/prometheus", {}),
    "router-service": ("ROUTER_PORT", 8000, "/metrics", {}),
    "vllm-a": ("ENGINE_A_PORT", 8101, "/metrics", {"backend": "backend-a"}),
    "vllm-b": ("ENGINE_B_PORT", 8102, "/metrics", {"backend": "backend-b"}),
    "backend-agent-a": ("AGENT_A_PORT", 8111, "/metrics", {"backend": "backend-a"}),
    "backend-agent-b": ("AGENT_B_PORT", 8112, "/metrics", {"backend": "backend-b"}),
    "prometheus": ("PROMETHEUS_PORT", 9090, "/metrics", {}),
    "alertmanager": ("ALERTMANAGER_PORT", 9093, "/metrics", {}),
    "node-exporter": ("NODE_EXPORTER_PORT", 9100, "/metrics", {}),
    "redis-exporter": ("REDIS_EXPORTER_PORT", 9121, "/metrics", {}),
}
# An engine simulator also simulates a GPU, with the DCGM exporter's metric names.
SIMULATED_DEVICES = {
    "dcgm-a": ("ENGINE_A_PORT", 8101, "/sim/dcgm", {"hostname": "backend-a"}),
    "dcgm-b": ("ENGINE_B_PORT", 8102, "/sim/dcgm", {"hostname": "backend-b"}),
}
# Two engines are one job: a query selects `job="vllm"` and distinguishes them by `backend`.
JOB_NAMES = {
    "vllm-a": "vllm",
    "vllm-b": "vllm",
    "backend-agent-a": "backend-agent",
    "backend-agent-b": "backend-agent",
    "dcgm-a": "dcgm-exporter",
    "dcgm-b": "dcgm-exporter",
}
SCRAPE_SECONDS = 5


def prometheus_configuration(
    environment: Mapping[str, str], rules: str, scrape_seconds: float = SCRAPE_SECONDS
) -> dict[str, Any]:
    """Return prometheus.yml of the local stack; ``rules`` is a pattern of rule files."""
    interval = f"{scrape_seconds:g}s"
    jobs: dict[str, dict[str, Any]] = {}
    simulated = SIMULATED_DEVICES if environment.get("PROFILE") == "sim" else {}
    for key, (variable, default, path, labels) in {**LOCAL_JOBS, **simulated}.items():
        name = JOB_NAMES.get(key, key)
        job = jobs.setdefault(name, {"job_name": name, "metrics_path": path, "static_configs": []})
        job["static_configs"].append(
            {"targets": [address(environment, variable, default)], "labels": {**labels}}
        )
    alertmanager = address(environment, "ALERTMANAGER_PORT", 9093)
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": list(jobs.values()),
    }


def address(environment: Mapping[str, str], variable: str, default: int) -> str:
    """Return the address of a part of the local stack."""
    return f"127.0.0.1:{environment.get(variable) or default}"
