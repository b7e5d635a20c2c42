"""The command `what-if`: its table, its JSON, and its answers to mistakes."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from router_service.cli.commands import main
from router_service.config import load
from router_service.forecast.engine_fit import fit
from router_service.forecast.simulation import Setup, play
from router_service.forecast.workload import workload_of

STEP, PER_REQUEST, PER_TOKEN = 0.02, 0.001, 0.0005
PROMPT, TOKENS = 100, 11


def record(number: int, **more: Any) -> dict[str, Any]:
    """A request that was alone in its engine, so that every time is known exactly."""
    prompt = PROMPT * (1 + number % 3)
    prefill = STEP + PER_REQUEST + prompt * PER_TOKEN
    candidate = {
        "backend": "a", "pool": "general", "eligible": True, "rejected_because": None, "in_flight": 0,
        "limit": 8, "score": 0.0,
    }  # fmt: skip
    return {
        "request_id": str(number),
        "config_hash": "a",
        "time": datetime.fromtimestamp(1_800_000_000 + number, UTC).isoformat(),
        "path": "/v1/chat/completions",
        "model": "m",
        "stream": True,
        "features": {},
        "pool": "general",
        "chosen": "a",
        "candidates": [candidate],
        "tokens": {"prompt": prompt, "completion": TOKENS, "cached": 0, "reasoning": None},
        "ttft_ledger_ms": {"router": 2.0, "engine_queue": 0.0, "prefill": prefill * 1e3},
        "first_token_ms": prefill * 1e3 + 2.0,
        "decode_ms": (TOKENS - 1) * (STEP + PER_REQUEST) * 1e3,
        **more,
    }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "router.yaml"
    pool = {"models": ["m"], "policy": "least_loaded", "backends": {"a": {"url": "http://127.0.0.1:1"}}}
    file.write_text(yaml.safe_dump({"pools": {"general": pool}, "routing": {"default_pool": "general"}}))
    return file


def log_of(tmp_path: Path, *records: dict[str, Any]) -> Path:
    file = tmp_path / "router.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records) + '{"event":"starting"}\n')
    return file


def test_requests_that_were_alone_keep_their_times(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_of(tmp_path, *map(record, range(40)))
    assert main(["what-if", "--config", str(config), str(log), "--json", "--engines", "4"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["asked"]["p50"] == pytest.approx(found["recorded"]["p50"], rel=0.02)
    assert found["asked"]["p95"] == pytest.approx(found["recorded"]["p95"], rel=0.02)
    assert (found["asked"]["engines"], found["recorded"]["engines"]) == (4, 1)
    assert found["engine"]["per_token"] == pytest.approx(PER_TOKEN, rel=0.01)


def test_a_faster_load_waits_for_its_engine(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_of(tmp_path, *map(record, range(60)))
    assert main(["what-if", "--config", str(config), str(log), "--rate", "20"]) == 0
    told = capsys.readouterr().out
    assert "60 requests of pool general in 59 s on 1 engines, 60 with a first token" in told
    assert "1 engines at 20 times the rate" in told
    assert re.search(r"error p50 [+-]0%, p95 [+-]0%", told)
    assert "warning" not in told


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    workload = workload_of([record(number) for number in range(30)], "general")
    assert workload.backends == 1
    file = tmp_path / "router.yaml"
    pool = {"models": ["m"], "backends": {"a": {"url": "http://127.0.0.1:1"}}}
    file.write_text(yaml.safe_dump({"pools": {"general": pool}, "routing": {"default_pool": "general"}}))
    setup = Setup("general", engines=1, slots=1, limit=1, queue_size=2, queue_seconds=60, rate=1000)
    played = play(workload, fit(workload), load(file).policy, setup)
    assert len(played.first_tokens) == 3
    assert played.refused == 27


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pool", "other"], "--pool other: not a pool of"),
        (["--engines", "0"], "--engines 0: must be over 0"),
        (["--rate", "nan"], "--rate nan: must be over 0"),
        (["--objective-seconds", "-1"], "--objective-seconds -1: must be over 0"),
    ],
)
def test_a_wrong_word_is_named(
    words: list[str], told: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = log_of(tmp_path, *map(record, range(30)))
    assert main(["what-if", "--config", str(config), str(log), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([], "no streamed request of pool general was answered"),
        ([record(1, stream=False, first_token_ms=None)], "no streamed request of pool general was answered"),
        ([record(1, pool="other")], "1 records of other pools"),
        ([record(n) for n in range(5)], "only 5 streamed requests with the engine's own figures"),
        ([record(n, model="x") for n in range(30)], "sends none of these requests to pool general"),
    ],
)
def test_records_that_cannot_answer_say_why(
    records: list[dict[str, Any]],
    told: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["what-if", "--config", str(config), str(log_of(tmp_path, *records))]) == 2
    assert told in capsys.readouterr().err
