"""A summary fails what must fail; a comparison tells a change from noise."""

import random

from measure.outcome import Outcome, RequestRecord
from reports.comparison import compare
from reports.summary import quantile, summarize
from workloads import Slo

SLO = Slo(ttft_seconds=1.0, inter_token_p95_seconds=0.2, goodput_ratio=0.9)


def record(outcome: Outcome = Outcome.GOOD, ttft: float = 0.1, late: float = 0.0) -> RequestRecord:
    return RequestRecord(
        sent_at=0.0,
        late_seconds=late,
        workload_request="kind",
        model="m",
        streamed=True,
        outcome=outcome,
        ttft_seconds=ttft,
        total_seconds=1.0,
        inter_token_seconds=[0.05, 0.06],
    )


def test_a_run_of_good_requests_passes() -> None:
    summary = summarize([record()] * 10, SLO)
    assert summary.passed
    assert summary.numbers["goodput_ratio"] == 1.0
    assert summary.numbers["ttft_seconds"]["p99"] == 0.1


def test_one_truncated_stream_fails_the_gate() -> None:
    summary = summarize([record()] * 99 + [record(Outcome.TRUNCATED)], SLO)
    assert not summary.passed
    assert summary.numbers["truncated"] == 1


def test_late_sends_void_a_run_even_when_every_answer_is_good() -> None:
    summary = summarize([record()] * 98 + [record(late=0.2)] * 2, SLO)
    assert any("invalid" in problem for problem in summary.problems)


def test_slow_answers_cost_goodput() -> None:
    summary = summarize([record()] * 8 + [record(ttft=1.5)] * 2, SLO)
    assert summary.numbers["goodput_ratio"] == 0.8
    assert any("goodput" in problem for problem in summary.problems)


def test_leaving_on_purpose_neither_fails_nor_counts() -> None:
    summary = summarize([record()] * 5 + [record(Outcome.ABORTED)] * 5, SLO)
    assert summary.passed
    assert summary.numbers["goodput_ratio"] == 1.0
    assert summary.numbers["aborted"] == 5


def test_no_request_at_all_is_no_success() -> None:
    assert not summarize([], SLO).passed


def test_quantiles_are_nearest_rank() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.99) == 4.0
    assert quantile([], 0.5) is None


def test_a_comparison_sees_a_slowdown_and_calls_equal_runs_equal() -> None:
    draws = random.Random(5)
    before = [record(ttft=draws.gauss(0.2, 0.02)) for _ in range(200)]
    same = [record(ttft=draws.gauss(0.2, 0.02)) for _ in range(200)]
    slower = [record(ttft=draws.gauss(0.3, 0.02)) for _ in range(200)]
    real = {d.name: d.real for d in compare(before, slower, SLO)}
    assert real["ttft p50 (s)"]
    assert not real["inter-token p50 (s)"]
    assert not any(d.real for d in compare(before, same, SLO))
