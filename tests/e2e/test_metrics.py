"""What the documents, dashboards and alerts name is what the running parts expose."""

import re

import httpx
import pytest

from harness.metrics_reference import page
from harness.stacks import ROOT, Stack
from observability.metrics_page import foreign_names
from router_service.telemetry.names import METRICS

MODEL = "smollm2-135m-instruct"
TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)


def test_the_page_of_metrics_is_as_generated() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(), "run: make generate"


def exposed(url: str) -> dict[str, str]:
    """Return the type of every metric by the name it is stored under."""
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
    assert missing == set()
    kinds = {metric.name: found[metric.name] for metric in METRICS}
    for metric in METRICS:
        named_like_a_counter = metric.name.endswith("_total")
        expected = metric.kind if metric.kind != "counter" or named_like_a_counter else "untyped"
        assert kinds[metric.name] == expected, metric.name


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
    assert wanted - found.keys() == set()
