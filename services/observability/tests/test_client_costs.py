"""Costs of each client's requests: arithmetic, files, and unit costs measured on a simulated engine."""

import csv
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from observability.client_costs.prices import PoolPrice
from observability.client_costs.report import daily, measure
from observability.client_costs.usage import SHADOW, Usage, usages
from observability.main import main

PRICE = PoolPrice(
    gpus=2.0, gpu_hour_price=3.6, prefill_seconds_per_token=0.001, decode_seconds_per_token=0.01
)
PRICES = """\
currency: EUR
pools:
  general: {gpus: 2, gpu_hour_price: 3.6, prefill_seconds_per_token: 0.001, decode_seconds_per_token: 0.01}
"""


def record(client: str, prompt: int | None, completion: int | None, **over: Any) -> str:
    fields = {
        "request_id": "r",
        "time": "2026-03-01T12:00:00.000000Z",
        "client_id": client,
        "pool": "general",
        "model": "m",
        "rule": "default",
        "attempts": [{"backend": "a"}],
        "ttft_ledger_ms": {"router_queue": 100.0},
        "total_ms": 1100.0,
        "tokens": {"prompt": prompt, "completion": completion},
    }
    return json.dumps({**fields, **over})


def test_a_request_takes_what_its_computed_and_produced_tokens_take() -> None:
    lines = [
        record("a", 100, 10, tokens={"prompt": 100, "cached": 40, "completion": 10}),
        record("a", None, None),
    ]
    (day,) = daily(usages(lines), {"general": PRICE}, {"2026-03-01": 86400.0}).values()
    row = day.rows["a", "m", "default"]
    assert row.gpu_seconds == pytest.approx(60 * 0.001 + 10 * 0.01)
    assert (row.requests, row.without_tokens, row.cached_tokens) == (2, 1, 40)
    assert day.idle_gpu_seconds + row.gpu_seconds == pytest.approx(2 * 86400)


def test_only_requests_that_reached_an_engine_count() -> None:
    lines = [
        "not a record",
        '{"ttft_ledger_ms": 1}',
        '{"ttft_ledger_ms"',
        record("a", 1, 1, attempts=[]),
        record("a", 1, 1, total_ms=None),
        record("a", 1, 1),
    ]
    (found,) = usages(lines)
    assert found.ended - found.began == pytest.approx(1.0)


def test_a_copy_of_a_request_is_charged_to_no_client() -> None:
    copy = record("", 100, 10, shadow_of="a-request")
    assert [usage.client for usage in usages([record("alice", 100, 10), copy])] == ["alice", SHADOW]


def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: list[str], *options: str
) -> tuple[int, str, str]:
    (tmp_path / "prices.yaml").write_text(PRICES)
    (tmp_path / "router.jsonl").write_text("\n".join(lines))
    words = [
        "client-costs",
        "--prices",
        str(tmp_path / "prices.yaml"),
        *options,
        str(tmp_path / "router.jsonl"),
    ]
    code = main(words)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_report_closes_with_the_idle_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = Random(7)
    lines = [
        record(client, random.randrange(5000), random.randrange(500), time=f"2026-03-0{day}T12:00:00.000000Z")
        for client in ("a", "b", "=x")
        for day in (1, 2)
        for _ in range(100)
    ]
    code, out, err = run(tmp_path, capsys, lines)
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    for day in ("2026-03-01", "2026-03-02"):
        of_day = [row for row in rows if row["day"] == day]
        assert [row["client"] for row in of_day] == ["=x", "a", "b", "(idle)"]
        assert sum(float(row["gpu_seconds"]) for row in of_day) == pytest.approx(2 * 86400, rel=1e-6)
        assert sum(float(row["share_of_paid"]) for row in of_day) == pytest.approx(1, abs=1e-5)
        assert sum(float(row["cost"]) for row in of_day) == pytest.approx(48 * 3.6, rel=1e-6)


def test_a_part_of_a_day_is_paid_for_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    between = ("--from", "2026-03-01T12:00:00Z", "--to", "2026-03-01T13:00:00Z")
    lines = [record("a", 1, 1), record("a", 1, 1, time="2026-03-01T14:00:00.000000Z")]
    code, out, _ = run(tmp_path, capsys, lines, *between)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [row["requests"] for row in rows] == ["1", ""]
    assert sum(float(row["gpu_seconds"]) for row in rows) == pytest.approx(2 * 3600)


def test_more_used_than_paid_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    between = ("--from", "2026-03-01T12:00:00Z", "--to", "2026-03-01T12:01:00Z")
    code, _, err = run(tmp_path, capsys, [record("a", 1, 50_000)], *between)
    assert code == 1
    assert "2026-03-01, pool general: requests took more GPU seconds than the 120 paid for" in err


def test_a_pool_without_a_price_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(tmp_path, capsys, [record("a", 1, 1), record("a", 1, 1, pool="other")])
    assert code == 0
    assert "left out because it has no price: pool other" in err
    assert "other" not in out


def test_a_models_name_cannot_be_a_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(tmp_path, capsys, [record("a", 1, 1, model="=HYPERLINK(1)")])
    assert "'=HYPERLINK(1)" in out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PRICES.replace("gpus: 2", "gpu: 2"), "prices.yaml:3:"),
        (PRICES.replace("0.01}", "-1}"), "decode_seconds_per_token: -1: Input should be greater than 0"),
        (PRICES.replace("EUR", "euro"), "currency: 'euro': String should match"),
        ("pools: [\n", "not YAML"),
        ("", "Field required"),
    ],
)
def test_a_wrong_file_of_prices_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    (tmp_path / "log").write_text(record("a", 1, 1))
    assert main(["client-costs", "--prices", str(tmp_path / "prices.yaml"), str(tmp_path / "log")]) == 2
    assert said in capsys.readouterr().err
    assert main(["client-costs", "--measure", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_known_unit_costs_are_found_again(seed: int) -> None:
    random = Random(seed)
    now, found = 1000.0, []
    for _ in range(300):
        prompt, completion = random.choice(
            [(random.randrange(1000, 4000), 5), (20, random.randrange(50, 300))]
        )
        took = prompt * 0.0005 + completion * 0.004
        found.append(Usage("p", "a", "c", "m", "r", now, now + took, prompt, 0, completion))
        now += took + random.expovariate(2)
    costs = measure(found)
    assert costs is not None, f"seed {seed}"
    assert costs.prefill_seconds_per_token == pytest.approx(0.0005, rel=0.05)
    assert costs.decode_seconds_per_token == pytest.approx(0.004, rel=0.05)
    assert costs.error < 0.05


def test_requests_of_one_kind_do_not_tell_the_costs_apart() -> None:
    same = [Usage("p", "a", "c", "m", "r", 10.0 * n, 10.0 * n + 1, 100, 0, 10) for n in range(20)]
    assert measure(same) is None
