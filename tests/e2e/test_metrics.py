"""The running services expose every metric that documents, dashboards and alerts name."""

import re

import httpx
import pytest

from harness.stacks.local import ROOT, Stack
from observability.metrics_reference import foreign_names
from platform_tools.references.metrics import page
from router_service.telemetry.names import METRICS

MODEL = "smollm2-135m-instruct"
TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)


ONLY_WITH_BUDGETS = {"router_budget_settlements_total"}
"""The local stack has no token budgets."""


def test_the_page_of_metrics_is_as_generated() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), "run: make generate"


def exposed(url: str) -> dict[str, str]:
    """Return the type of every metric by its stored name."""
    return dict(TYPE.findall(httpx.get(url, timeout=30).text))


@pytest.fixture(scope="module")
def asked(sim_stack: Stack) -> Stack:
    """A stack that has answered a few requests."""
    for stream in (True, False):
        httpx.post(
            f"{sim_stack.edge}/v1/chat/completions",
            json={
                "model": MODEL,
                "messages": [{"role": "user", "content": "Hi"}],
                "stream": stream,
                "max_tokens": 4,
            },
            headers={"authorization": f"Bearer {sim_stack.key}"},
            timeout=30,
        ).raise_for_status()
    return sim_stack


@pytest.mark.service
@pytest.mark.timeout(300)
def test_the_router_exposes_every_metric_of_its_table_with_its_type(asked: Stack) -> None:
    found = exposed(f"{asked.router}/metrics")
    missing = {metric.name for metric in METRICS if metric.name not in found}
    assert missing == ONLY_WITH_BUDGETS
    here = [metric for metric in METRICS if metric.name not in missing]
    kinds = {metric.name: found[metric.name] for metric in here}
    for metric in here:
        named_like_a_counter = metric.name.endswith("_total")
        expected = metric.kind if metric.kind != "counter" or named_like_a_counter else "untyped"
        assert kinds[metric.name] == expected, metric.name


# The local stack has no token budgets; services/edge-gateway/tests/test_real_router.py and test_rates_and_budgets.py do.
@pytest.mark.service
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("prefix", "port", "path"),
    [
        ("vllm", "ENGINE_A_PORT", "/metrics"),
        ("DCGM", "ENGINE_A_PORT", "/sim/dcgm"),
        ("envoy", "EDGE_TELEMETRY_PORT", "/stats/prometheus"),
    ],
)
def test_what_dashboards_and_alerts_read_of_others_is_exposed(
    asked: Stack, prefix: str, port: str, path: str
) -> None:
    wanted = {name for name in foreign_names() if name.startswith(prefix)}
    assert wanted
    found = exposed(asked.url(port, path))
    assert wanted - found.keys() == ({"envoy_cluster_ratelimit_budget_error"} if prefix == "envoy" else set())
