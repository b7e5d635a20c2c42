"""The exposition is what prometheus_client writes, in pieces."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from router_service.routing.snapshot import BackendView
from router_service.telemetry import names
from router_service.telemetry.aggregates import Counter, Gauge, Histogram
from router_service.telemetry.gauges import Sources, gauges
from router_service.telemetry.registry import PIECE_LINES, Exposition
from router_service.telemetry.request_metrics import RequestMetrics, RequestSample
from router_service.upstream.pool import Segments

OPEN_METRICS = "application/openmetrics-text;version=1.0.0"
FORMATS = ["", OPEN_METRICS, "text/plain;version=1.0.0;escaping=allow-utf-8"]
VALUES = st.one_of(st.floats(), st.integers(0, 10**9).map(float))


class Whole(Collector):
    """The same metrics by prometheus_client alone."""

    def __init__(self, metrics: list[Counter | Gauge | Histogram]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            if isinstance(metric, Histogram):
                yield metric.family()
                continue
            family = metric.header()
            for labels, value in metric.values():
                family.add_metric(labels, value)  # type: ignore[attr-defined]
            yield family


@given(
    totals=st.dictionaries(st.tuples(st.text(max_size=5), st.text(max_size=5)), VALUES, max_size=8),
    gauge=VALUES,
    observed=st.lists(st.floats(0, 100), max_size=5),
)
@pytest.mark.parametrize("accept", FORMATS)
def test_the_text_is_what_prometheus_client_writes(
    accept: str, totals: dict[tuple[str, ...], float], gauge: float, observed: list[float]
) -> None:
    attempts, first_tokens = Counter(names.ATTEMPTS), Counter(names.TTFT_SUM_BY)
    attempts.totals = totals
    first_tokens.totals = {(a, b, a, b, a, b): value for (a, b), value in totals.items()}
    histogram = Histogram(names.TTFT)
    for value in observed:
        histogram.of(("p",)).observe(value, "t" * 32, 1.0)
    metrics = [attempts, Gauge(names.TIME, lambda: [((), gauge)]), histogram, first_tokens]
    encode, _ = choose_encoder(accept)
    pieces = list(Exposition(metrics).pieces(encode))
    whole = encode(Whole(metrics)).removesuffix(b"# EOF\n")
    assert b"".join(pieces[:-1]) == whole
    if accept == OPEN_METRICS:
        assert pieces[-1].endswith(b"# EOF\n")
        assert b"".join(pieces).count(b"# EOF\n") == 1 or any(
            "# EOF" in label for pair in totals for label in pair
        )


def test_no_piece_of_a_large_fleet_is_long() -> None:
    requests = Counter(names.REQUESTS)
    for number in range(10_000):
        requests.add(("p", f"r{number}", "least_loaded", "ok"))
    encode, _ = choose_encoder(OPEN_METRICS)
    pieces = list(Exposition([requests]).pieces(encode))
    assert max(piece.count(b"\n") for piece in pieces[:-1]) <= PIECE_LINES
    assert sum(piece.count(b"router_requests_total{") for piece in pieces) == 10_000


def test_the_process_is_in_it() -> None:
    encode, _ = choose_encoder("")
    assert b"process_cpu_seconds_total" in b"".join(Exposition([]).pieces(encode))


@pytest.mark.parametrize(("in_trouble", "most"), [(False, 4), (True, 8)])
def test_rules_reasons_outcomes_and_sizes_do_not_multiply_the_series_of_a_backend(
    in_trouble: bool, most: int
) -> None:
    backends = [BackendView(f"b{n}", "p", f"http://b{n}", unusable=None) for n in range(50)]
    metrics = RequestMetrics()
    for number, backend in enumerate(backends * 40):
        metrics.finished(sample(backend.name, number, failed=in_trouble and number % 3 == 0))
    if in_trouble:
        for backend in backends:
            backend.breaker_open, backend.round_trip_seconds = True, 0.1
    carried = {view.url: Segments(100, int(in_trouble)) for view in backends}
    everything = [*metrics.everything(), *gauges(sources(backends, carried))]
    encode, _ = choose_encoder("")
    text = b"".join(Exposition(everything).pieces(encode)).decode()
    of_backends = [line for line in text.splitlines() if 'backend="' in line and not line.startswith("#")]
    assert len(of_backends) == most * len(backends)
    others = [line for line in text.splitlines() if 'pool="p"' in line and 'backend="' not in line]
    assert 'router_tcp_segments_total{pool="p"} 5000.0' in others
    metrics.forget(*(backend.name for backend in backends))
    text = b"".join(Exposition(metrics.everything()).pieces(encode)).decode()
    assert 'backend="' not in text, "a removed backend leaves no series"


def sample(backend: str, number: int, *, failed: bool) -> RequestSample:
    """One of many different requests."""
    return RequestSample(
        pool="p",
        backend=backend,
        class_name="",
        rule=f"r{number % 7}",
        reason=("least_loaded", "session_affinity")[number % 2],
        outcome=("ok", "cancelled", "timeout")[number % 3],
        operation="chat",
        model="m",
        prompt_chars=number * 100,
        affinity=("off", "kept")[number % 2],
        seconds=1.0,
        queue_seconds=0.1,
        first_token_seconds=0.5,
        decode_seconds=0.5,
        ledger_ms={"edge": 1.0, "prefill": 499.0},
        slow=number % 5 == 0,
        prompt_tokens=10,
        completion_tokens=10,
        cached_tokens=1,
        reasoning_tokens=1,
        cache_expected=bool(number % 2),
        first_answer_seconds=None,
        attempts=[(backend, "broken")] if failed else [(backend, "complete")],
        resumes=(),
        stale=1,
        trace_id="",
        at=0.0,
    )


def sources(backends: list[BackendView], carried: dict[str, Segments]) -> Sources:
    return Sources(
        backends=lambda: ((view, view.url) for view in backends),
        waiting=lambda: {"p": 0},
        holds=list,
        classes=list,
        usable=lambda: {"p": len(backends)},
        retry_budget=lambda: 3,
        segments=lambda: carried,
        connections=lambda: 1,
        listed=lambda: {"p": True},
        config_hash=lambda: "h",
        reload_ok=lambda: True,
        affinity_up=lambda: True,
        spans_dropped=lambda: 0,
        log_dropped=lambda: 0,
        change_times=list,
        rule_hashes=list,
        rollouts=list,
    )
