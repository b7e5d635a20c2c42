"""The report of client costs agrees with the counts of the engine and of the clients."""

import csv
import io
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.servers.router_fleet import MODEL, fleet_in
from harness.waiting import eventually
from observability.main import main

pytestmark = pytest.mark.service

PREFILL, DECODE = 0.0001, 0.002
PRICES = f"""\
currency: EUR
pools:
  general:
    gpus: 1
    gpu_hour_price: 1.5
    prefill_seconds_per_token: {PREFILL}
    decode_seconds_per_token: {DECODE}
"""
KINDS = {"reads-much": (3000, 4), "writes-much": (5, 120)}


def test_shares_are_those_of_the_tokens_that_client_and_engine_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fleet_in(tmp_path) as fleet:
        engine = fleet.add_engine(
            "a", "--step-seconds", str(DECODE), "--prefill-seconds-per-token", str(PREFILL)
        )
        router = fleet.add_router()

        def ask(client: str) -> tuple[str, int, int]:
            words, limit = KINDS[client]
            body = {
                "model": MODEL,
                "messages": [{"role": "user", "content": f"{uuid.uuid4()} " + "word " * words}],
                "max_tokens": limit,
                "ignore_eos": True,
            }
            answer = httpx.post(
                f"{router.url}/v1/chat/completions", json=body, headers={"x-client-id": client}, timeout=60
            )
            usage = answer.json()["usage"]
            return client, usage["prompt_tokens"], usage["completion_tokens"]

        with ThreadPoolExecutor(4) as pool:
            counted = list(pool.map(ask, [client for client in KINDS for _ in range(20)]))
        eventually(lambda: router.log.read_text().count('"ttft_ledger_ms"') == len(counted), "all are logged")
        metrics = httpx.get(f"{engine.url}/metrics").text
    (tmp_path / "prices.yaml").write_text(PRICES)
    assert main(["client-costs", "--prices", str(tmp_path / "prices.yaml"), str(router.log)]) == 0
    rows = {row["client"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    for client in KINDS:
        prompt = sum(tokens for who, tokens, _ in counted if who == client)
        completion = sum(tokens for who, _, tokens in counted if who == client)
        assert float(rows[client]["gpu_seconds"]) == pytest.approx(
            prompt * PREFILL + completion * DECODE, rel=0.05
        )
    total = {
        name: sum(
            float(line.rsplit(" ", 1)[1])
            for line in metrics.splitlines()
            if line.startswith(f"vllm:{name}_tokens_total")
        )
        for name in ("prompt", "generation")
    }
    used = sum(float(rows[client]["gpu_seconds"]) for client in KINDS)
    assert used == pytest.approx(total["prompt"] * PREFILL + total["generation"] * DECODE, rel=0.05)
    paid = sum(float(row["gpu_seconds"]) for row in rows.values())
    assert paid == pytest.approx(86400, rel=0.01)
