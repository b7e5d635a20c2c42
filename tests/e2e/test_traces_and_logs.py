"""One request is one trace from edge to engine; logs and spans contain exactly what docs/signals.md lists."""

import json
import re
import statistics
import time
from typing import Any

import httpx
import pytest

from harness.servers.span_collector import Span
from harness.stacks.local import ROOT
from harness.stacks.observed import Observed
from harness.waiting import eventually
from platform_tools.references.signals import ENGINE_SPAN, page
from router_service.telemetry.fields import LOG_FIELDS, RECORD_FIELDS, SPAN_ATTRIBUTES

OURS = {
    "edge": "edge-gateway",
    "router": "router-service",
    "agent-a": "backend-agent",
    "agent-b": "backend-agent",
}


def test_the_page_of_logs_and_spans_is_as_generated() -> None:
    assert (ROOT / "docs" / "signals.md").read_text() == page(), "run: make generate"


def record(observed: Observed, request_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        answer = httpx.get(f"{observed.stack.router}/debug/decisions/{request_id}", timeout=10)
        return answer.json() if answer.status_code == 200 else None

    kept: dict[str, Any] = eventually(found, "the record is kept", 20)
    return kept


def spans_of(observed: Observed, request_id: str, services: set[str]) -> list[Span]:
    """Return the trace of a request, once every service has exported its spans."""
    trace_id = record(observed, request_id)["trace_id"]

    def whole() -> list[Span] | None:
        found = observed.spans.trace(trace_id)
        return found if services <= {span.service for span in found} else None

    found: list[Span] = eventually(whole, f"spans of {services}", 60)
    return found


def named(spans: list[Span], service: str, prefix: str = "") -> list[Span]:
    return [span for span in spans if span.service == service and span.name.startswith(prefix)]


WHOLE = {"edge-gateway", "router-service", "vllm"}


@pytest.mark.service
@pytest.mark.timeout(300)
def test_one_trace_goes_from_edge_to_engine_under_one_request_id(observed_stack: Observed) -> None:
    answer = observed_stack.ask("Say hello.")
    request_id = answer.headers["x-request-id"]
    spans = spans_of(observed_stack, request_id, WHOLE)
    (edge,) = named(spans, "edge-gateway")
    (router,) = [span for span in named(spans, "router-service") if not span.name.startswith("attempt")]
    (attempt,) = named(spans, "router-service", "attempt")
    (engine,) = named(spans, "vllm")
    assert edge.parent == ""
    assert router.parent == edge.span_id
    assert attempt.parent == router.span_id
    assert engine.parent == router.span_id
    assert edge.attributes["request_id"] == request_id
    assert router.attributes["llm.request_id"] == request_id
    assert engine.attributes["gen_ai.request.id"] == request_id
    assert attempt.attributes["llm.backend"] == answer.headers["x-route-backend"]
    for child, parent in ((router, edge), (attempt, router), (engine, attempt)):
        assert parent.start - 0.5 <= child.start <= child.end <= parent.end + 0.5, (child, parent)


@pytest.mark.service
@pytest.mark.timeout(300)
def test_an_attempt_that_failed_is_a_failed_span_beside_the_one_that_answered(
    observed_stack: Observed,
) -> None:
    for engine in observed_stack.platform.engines.values():
        body = {"kind": "http_error", "status": 503, "count": 1}
        httpx.post(f"{engine.url}/sim/faults", json=body, timeout=10).raise_for_status()

    def retried() -> str | None:
        answer = observed_stack.ask("Say hello.")
        # The second engine must answer: a request that met both engines' faults has no engine span.
        again = answer.status_code == 200 and answer.headers["x-route-attempts"] != "1"
        return answer.headers["x-request-id"] if again else None

    # Another request of this stack may consume the fault first; then set it again.
    request_id = None
    for _ in range(20):
        request_id = retried()
        if request_id:
            break
        httpx.post(
            f"{observed_stack.platform.engines['a'].url}/sim/faults",
            json={"kind": "http_error", "status": 503, "count": 1},
            timeout=10,
        ).raise_for_status()
    assert request_id, "no request was tried twice"
    spans = spans_of(observed_stack, request_id, WHOLE)
    attempts = named(spans, "router-service", "attempt")
    assert [span.failed for span in sorted(attempts, key=lambda span: span.start)][-1] is False
    assert any(span.failed for span in attempts)
    assert record(observed_stack, request_id)["ttft_ledger_ms"]["earlier_attempts"] > 0
    for engine in observed_stack.platform.engines.values():
        httpx.request("DELETE", f"{engine.url}/sim/faults", timeout=10)


@pytest.mark.service
@pytest.mark.timeout(300)
def test_spans_hold_only_what_the_catalogue_names(observed_stack: Observed) -> None:
    request_id = observed_stack.ask("Say hello.").headers["x-request-id"]
    spans = spans_of(observed_stack, request_id, WHOLE)
    parts = "llm.ttft_ledger_ms."
    for span in named(spans, "router-service"):
        used = {parts + "*" if name.startswith(parts) else name for name in span.attributes}
        assert used <= SPAN_ATTRIBUTES.keys(), used - SPAN_ATTRIBUTES.keys()
    for span in named(spans, "vllm"):
        assert span.attributes.keys() <= ENGINE_SPAN.keys()


@pytest.mark.service
@pytest.mark.timeout(300)
def test_every_line_of_ours_has_the_fields_of_every_log_line(observed_stack: Observed) -> None:
    must = {"time", "level", "service", "event"}
    for part, service in OURS.items():
        lines = (observed_stack.stack.run_dir / "logs" / f"{part}.jsonl").read_text().splitlines()
        own = [entry for entry in map(json.loads, lines) if entry.get("service") == service]
        assert own, f"{part} has logged nothing"
        for entry in own:
            assert must <= entry.keys(), (part, entry)
            assert entry["level"] in {"debug", "info", "warning", "error", "critical"}, entry["level"]
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|\+00:00)$", entry["time"]), entry["time"]


@pytest.mark.service
@pytest.mark.timeout(300)
def test_the_line_of_a_request_has_the_fields_of_the_record_and_both_logs_know_its_id(
    observed_stack: Observed,
) -> None:
    secret = "a phrase that must stay between client and engine"
    request_id = observed_stack.ask(secret).headers["x-request-id"]
    folder = observed_stack.stack.run_dir / "logs"

    def line(part: str) -> dict[str, Any] | None:
        for text in (folder / f"{part}.jsonl").read_text().splitlines():
            entry: dict[str, Any] = json.loads(text)
            if entry.get("event") == "request" and entry.get("request_id") == request_id:
                return entry
        return None

    router = eventually(lambda: line("router"), "the router's line", 20)
    edge = eventually(lambda: line("edge"), "the edge's line", 20)
    assert router.keys() <= RECORD_FIELDS.keys() | LOG_FIELDS.keys(), router.keys() - RECORD_FIELDS.keys()
    assert edge["trace_id"] == router["trace_id"]
    assert edge["backend"] == router["chosen"]
    for path in folder.glob("*.jsonl"):
        assert secret not in path.read_text(), path.name
    assert not [span for span in observed_stack.spans.spans if secret in str(span)]


@pytest.mark.service
@pytest.mark.timeout(300)
def test_a_latency_histogram_names_the_trace_of_a_request(observed_stack: Observed) -> None:
    request_id = observed_stack.ask("Say hello.").headers["x-request-id"]
    spans_of(observed_stack, request_id, WHOLE)
    prometheus = observed_stack.stack.url("PROMETHEUS_PORT", "/api/v1/query_exemplars")
    parameters: dict[str, str | float] = {
        "query": "router_ttft_seconds_bucket",
        "start": time.time() - 600,
        "end": time.time(),
    }

    def kept() -> list[str]:
        found = httpx.get(prometheus, params=parameters, timeout=10).json()["data"]
        return [one["labels"]["trace_id"] for series in found for one in series["exemplars"]]

    exemplars = eventually(kept, "Prometheus keeps exemplars", 30)
    known = {span.trace_id for span in observed_stack.spans.spans}
    assert set(exemplars) & known


@pytest.mark.service
@pytest.mark.timeout(300)
def test_what_no_part_explains_is_small_at_the_median(observed_stack: Observed) -> None:
    shares = unexplained(observed_stack)
    print("unexplained at the median: {:.2f} ms of {:.1f} ms, over {} requests".format(*shares))
    left, total, requests = shares
    assert requests >= 50
    assert abs(left) <= max(0.02 * total, 10.0)


def unexplained(observed: Observed) -> tuple[float, float, int]:
    """Return the median unexplained part, the median time to first token (both in ms) and the number of requests."""
    lines = (observed.stack.run_dir / "logs" / "router.jsonl").read_text().splitlines()
    records = [entry for entry in map(json.loads, lines) if entry.get("first_token_ms")]
    parts = [entry["ttft_ledger_ms"]["unexplained"] for entry in records]
    return statistics.median(parts), statistics.median(e["first_token_ms"] for e in records), len(records)
