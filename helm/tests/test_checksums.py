"""A pod is replaced if and only if a value changes that it reads only at its start."""

import hashlib
import re
import subprocess
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, merged, nested, read, render
from harness.kubernetes.tools import tool
from router_service.reload import _AT_START

pytestmark = pytest.mark.programs

BASES = {chart: read(HELM / "tests/options" / f"{chart}.yaml").get("base", {}) for chart in CHARTS}
BY_THE_CHART = {"server.host", "server.port"}
"""Refused as values: the Service and the probes go by them."""
OTHERS: dict[str, Any] = {
    "redis": ("redis", {"url": "redis://other:6379/0"}),
    "budgets": ("config.budgets", {"address": "rate-limits:8081"}),
    "affinity.enabled": ("config.affinity.enabled", False),
    "health.timeout_seconds": ("config.health.timeout_seconds", 7.0),
    "telemetry.otlp_endpoint": ("config.telemetry.otlp_endpoint", "http://other:4318"),
}
"""Settings that need a restart of the router (router_service.app): the chart's option, and a different value."""
TAKEN_OVER: dict[str, Any] = {
    "config.timeouts.total_seconds": 599.0,
    "config.health.interval_seconds": 3.0,
    "config.server.max_body_bytes": 2048,
    "config.affinity.ttl_seconds": 60,
    "config.limits.queue_size": 1,
    "rules.rules": [{"name": "a", "when": {"max_tokens_gte": 1}, "route_to": "general"}],
}


def checksums(fields: dict[str, Any]) -> dict[str, str]:
    return {path: value for path, value in fields.items() if ".annotations.checksum/" in path}


def router(option: str = "", value: Any = None) -> dict[str, Any]:
    return render("router-service", merged(BASES["router-service"], nested(option, value) if option else {}))


def test_every_setting_that_waits_for_a_restart_is_known_here() -> None:
    assert set(_AT_START) == OTHERS.keys() | BY_THE_CHART


@pytest.mark.parametrize("setting", OTHERS)
def test_a_router_is_replaced_for_what_it_reads_only_at_its_start(setting: str) -> None:
    before, after = router(), router(*OTHERS[setting])
    assert checksums(before) != checksums(after)


@pytest.mark.parametrize("option", TAKEN_OVER)
def test_a_router_is_not_replaced_for_what_it_takes_over(option: str) -> None:
    before, after = router(), router(option, TAKEN_OVER[option])
    assert before != after
    if option != "config.timeouts.total_seconds":  # the grace period follows it
        assert {path for path in before if before[path] != after.get(path)} <= {
            path for path in before if path.startswith("ConfigMap/")
        }
    assert checksums(before) == checksums(after)


@pytest.mark.parametrize("chart", [chart for chart in CHARTS if chart != "observability"])
def test_every_pod_with_a_config_map_of_its_chart_has_its_checksum(chart: str) -> None:
    fields = render(chart, BASES[chart])
    own = {
        path.partition(" ")[0].removeprefix("ConfigMap/") for path in fields if path.startswith("ConfigMap/")
    }
    for workload in {path.partition(" ")[0] for path in fields if ".spec.containers[" in path}:
        mounted = {
            value for path, value in fields.items()
            if path.startswith(f"{workload} ") and path.endswith(".configMap.name")
        }  # fmt: skip
        if mounted & own:
            found = [path for path in checksums(fields) if path.startswith(f"{workload} ")]
            assert found, f"{workload} mounts {mounted & own} and is not replaced when it changes"
            assert all(re.fullmatch("[0-9a-f]{64}", fields[path]) for path in found)
            assert hashlib.sha256(b"").hexdigest() not in {fields[path] for path in found}, "of nothing"


def test_redis_is_hashed_as_it_is_written() -> None:
    done = subprocess.run(
        [tool("helm"), "template", "r", HELM / "llm-redis", "--set", "passwordSecret=redis"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    documents = {one["kind"]: one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one}
    text = documents["ConfigMap"]["data"]["redis.conf"].rstrip("\n")
    annotations = documents["StatefulSet"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["checksum/config"] == hashlib.sha256(text.encode()).hexdigest()
