"""compare-pools tells a worse pool from noise, pairs copies with their requests, and reports bad input in a sentence."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from router_service.cli.commands import main


def record(number: int, pool: str, random: Random, slower: float = 0.0, **more: Any) -> dict[str, Any]:
    prefill = random.gauss(100, 10) + slower
    parts = {"edge": 40.0, "router_queue": 5.0, "router": 1.0, "prefill": prefill, "relay": 1.0}
    return {
        "request_id": f"id-{number}", "config_hash": "c", "pool": pool, "outcome": "ok",
        "tokens": {"completion": 11}, "decode_ms": random.gauss(200, 5), "ttft_ledger_ms": parts,
        "first_token_ms": sum(parts.values()), **more,
    }  # fmt: skip


def copy_of(number: int, random: Random, **more: Any) -> dict[str, Any]:
    found = record(number, "next", random, **more)
    found["ttft_ledger_ms"]["edge"] = None
    found["first_token_ms"] -= 45
    found["ttft_ledger_ms"]["router_queue"] = 0.0
    return {**found, "request_id": f"id-{number}-shadow", "shadow_of": f"id-{number}"}


def compared(log: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["compare-pools", str(log), "live", "next", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    found["by_name"] = {one["name"]: one for one in found["differences"]}
    return found


def write(folder: Path, *records: dict[str, Any]) -> Path:
    log = folder / "router.jsonl"
    log.write_text("not JSON\n" + "".join(json.dumps(one) + "\n" for one in records))
    return log


def test_copies_are_compared_with_the_requests_that_they_copy(tmp_path: Path, capsys) -> None:
    random = Random(1)
    requests = [record(n, "live", random) for n in range(300)]
    copies = [copy_of(n, random, slower=30.0) for n in range(200)]
    copies[:20] = [{**one, "outcome": "truncated"} for one in copies[:20]]
    foreign = copy_of(9999, random, slower=5000.0)
    found = compared(write(tmp_path, *requests, *copies, foreign), capsys)
    assert (found["a"], found["b"]) == (
        {"pool": "live", "requests": 200},
        {"pool": "next", "copies": 200},
    )
    first = found["by_name"]["first token p50 (ms)"]
    assert first["real"]
    assert first["low"] < 30 < first["high"]
    assert first["a"] == pytest.approx(102, abs=5), "without the edge and the queue"
    assert found["by_name"]["prefill (ms)"]["real"]
    assert not found["by_name"]["gap p50 (ms)"]["real"]
    assert found["by_name"]["truncated (share)"]["b"] == 0.1
    assert found["by_name"]["truncated (share)"]["real"]


def test_requests_of_two_pools_are_compared_and_equal_pools_are_noise(tmp_path: Path, capsys) -> None:
    random = Random(2)
    records = [record(n, ("live", "next")[n % 2], random) for n in range(400)]
    found = compared(write(tmp_path, *records), capsys)
    assert found["b"] == {"pool": "next", "requests": 200}
    assert found["by_name"]["first token p50 (ms)"]["a"] == pytest.approx(107, abs=5), "with its queue"
    assert not found["by_name"]["first token p50 (ms)"]["real"]
    assert compared(write(tmp_path, *records), capsys, "--last", "50")["a"]["requests"] == 50


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["live", "nowhere"], "no request of pool nowhere; the log has 1 requests of live"),
        (["live", "live"], "live and live are the same pool; name two"),
        (["live", "next", "--kind", "copies"], "no copy in pool next of a request in pool live"),
        (["live", "next", "--last", "0"], "--last 0: must be at least 1"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys, words: list[str], said: str) -> None:
    log = write(tmp_path, record(1, "live", Random(3)))
    assert main(["compare-pools", str(log), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_router_does_not_load_numpy() -> None:
    code = "import sys, router_service.main, router_service.app; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("changed", [{"pool": ["live"]}, {"ttft_ledger_ms": None}, {"tokens": None}])
def test_a_record_with_a_field_of_another_type_is_left_out(changed, tmp_path: Path, capsys) -> None:
    random = Random(6)
    both = [record(n, pool, random) for n in range(20) for pool in ("live", "next")]
    found = compared(write(tmp_path, *both, {**both[0], **changed}), capsys)
    assert (found["a"]["requests"], found["b"]["requests"]) == (20, 20)
