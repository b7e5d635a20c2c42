"""A summary detects failed runs; a comparison distinguishes a change from noise."""

import json
import random
import time
from pathlib import Path

import pytest

from load_testing import compare as compare_program
from load_testing.measure.generators import Account, Share
from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.reports.comparison import compare
from load_testing.reports.summary import LISTED, Summary, quantile, summarize
from load_testing.workloads import Slo

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


def account(planned: int, generators: int = 1) -> Account:
    return Account(
        workload="fixed-rate",
        target="http://x/v1",
        rate_per_second=1,
        duration_seconds=1,
        seed=1,
        generators=generators,
        shares=(Share(planned=planned, seconds=1, cpu_cores=0.25),),
    )


def judged(records: list[RequestRecord]) -> Summary:
    return summarize(records, SLO, account(len(records)))


def test_a_run_of_good_requests_passes() -> None:
    summary = judged([record()] * 10)
    assert summary.passed
    assert summary.numbers["goodput_ratio"] == 1.0
    assert summary.numbers["ttft_seconds"]["p99"] == 0.1


def test_one_truncated_stream_fails_the_gate() -> None:
    summary = judged([record()] * 99 + [record(Outcome.TRUNCATED)])
    assert not summary.passed
    assert summary.numbers["truncated"] == 1


def test_late_sends_void_a_run_even_when_every_answer_is_good() -> None:
    summary = judged([record()] * 98 + [record(late=0.2)] * 2)
    assert any("invalid" in problem for problem in summary.problems)


def test_slow_answers_cost_goodput() -> None:
    summary = judged([record()] * 8 + [record(ttft=1.5)] * 2)
    assert summary.numbers["goodput_ratio"] == 0.8
    assert any("goodput" in problem for problem in summary.problems)


def test_leaving_on_purpose_neither_fails_nor_counts() -> None:
    summary = judged([record()] * 5 + [record(Outcome.ABORTED)] * 5)
    assert summary.passed
    assert summary.numbers["goodput_ratio"] == 1.0
    assert summary.numbers["aborted"] == 5


def test_no_request_at_all_is_no_success() -> None:
    assert not judged([]).passed


def test_a_request_without_a_record_voids_a_run() -> None:
    summary = summarize([record()] * 9, SLO, account(10))
    assert summary.problems == summary.invalid
    assert "1 of 10 requests left no record" in summary.problems[0]


def test_records_of_another_run_void_a_run() -> None:
    assert "11 records of 10 requests" in summarize([record()] * 11, SLO, account(10)).problems[0]


def test_a_generator_that_never_ended_voids_a_run() -> None:
    assert "only 1 of 2 generators" in summarize([record()], SLO, account(1, generators=2)).problems[0]


def test_a_run_says_what_cpu_its_generators_used() -> None:
    assert judged([record()]).numbers["generators"] == [{"planned": 1, "seconds": 1.0, "cpu_cores": 0.25}]


def test_the_slowest_requests_that_broke_the_objective_are_named() -> None:
    slow = [record(ttft=1.5), record(ttft=3.0), record(ttft=2.0)]
    numbers = judged([record()] * 3 + slow).numbers
    assert [r["ttft_seconds"] for r in numbers["slow"]] == [3.0, 2.0, 1.5]


def test_more_failures_than_are_named_are_counted() -> None:
    numbers = judged([record(Outcome.CONNECTION)] * (LISTED + 7)).numbers
    assert (len(numbers["failures"]), numbers["failed"]) == (LISTED, LISTED + 7)


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


def test_a_statistic_that_a_run_does_not_have_is_left_out() -> None:
    unstreamed = record()
    unstreamed.ttft_seconds, unstreamed.inter_token_seconds = None, []
    assert [d.name for d in compare([unstreamed] * 3, [record()] * 3, SLO)] == ["goodput ratio"]


def test_the_values_compared_are_those_of_the_summary() -> None:
    draws = random.Random(6)
    a = [record(ttft=draws.random()) for _ in range(101)]
    b = [record(ttft=draws.random()) for _ in range(100)]
    found = {d.name: d for d in compare(a, b, SLO)}
    for name, q in (("ttft p50 (s)", 0.5), ("ttft p95 (s)", 0.95)):
        assert found[name].a == quantile([r.ttft_seconds or 0 for r in a], q)
        assert found[name].b == quantile([r.ttft_seconds or 0 for r in b], q)
        assert found[name].low < found[name].b - found[name].a < found[name].high


def test_comparing_large_runs_takes_no_time_to_speak_of() -> None:
    draws = random.Random(8)
    large = [record(ttft=draws.random()) for _ in range(5_000)]
    began = time.process_time()
    compare(large, large, SLO)
    assert time.process_time() - began < 5, "120,000 requests take 24 times as long"


@pytest.mark.parametrize("summary", ['{"requests": 3}', "[]", "{", '{"slo": {"ttft_seconds": -1}}'])
def test_comparing_what_is_no_run_is_one_sentence(
    summary: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text(summary)
    (tmp_path / "requests.jsonl").write_text(record().as_json() + "\n")
    assert compare_program.main([str(tmp_path), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "summary.json") in said


def test_comparing_with_records_that_were_cut_off_names_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"slo": SLO.model_dump()}))
    (tmp_path / "requests.jsonl").write_text(record().as_json() + "\n" + record().as_json()[:20])
    assert compare_program.main([str(tmp_path), str(tmp_path)]) == 2
    assert "requests.jsonl, line 2, is not a record" in capsys.readouterr().err
