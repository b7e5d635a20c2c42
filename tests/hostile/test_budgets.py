"""Attack: streams that their client leaves early, and a frozen store. A budget stays exact to the token."""

import asyncio
import time

import httpx
import pytest

from harness.attacks.streams import BODIES, DELTA, LEFT_AFTER, WORDS, left_early
from harness.servers.edges import CHAT, redis_frozen
from harness.stacks.attacked import ASSUMED_TOKENS, BUDGET, FULL, Attacked, unharmed_neighbour
from harness.waiting import eventually

pytestmark = pytest.mark.service

STREAMS = 40 if FULL else 4


@pytest.mark.parametrize("path", BODIES)
def test_streams_left_early_cost_what_was_delivered(attacked: Attacked, path: str) -> None:
    settled = attacked.budget_metric("rate_limit_settlements_total")
    attacked.redis("flushall")
    began = time.monotonic()
    ids: list[str] = []
    with unharmed_neighbour(attacked, f"left early at {path}"):
        started = time.monotonic()
        while len(ids) < STREAMS or time.monotonic() - started < 3.0:
            ids.append(left_early(attacked, path))
    records = [attacked.record(request) for request in ids]
    assert {record["outcome"] for record in records} == {"cancelled"}, "the attack must have happened"
    eventually(
        lambda: attacked.budget_metric("rate_limit_settlements_total") >= settled + len(ids),
        "all are settled",
    )
    entries = [attacked.edge.access_line(request) for request in ids]
    reserved = sum(int(entry["tokens_reserved"]) for entry in entries)
    refilled = BUDGET * (time.monotonic() - began) / 60
    if path in (CHAT, "/v1/completions"):
        used = sum(record["tokens"]["prompt"] + record["tokens"]["completion"] for record in records)
        assert used - refilled - 1 <= attacked.spent() <= used + 1
    else:
        assert attacked.spent() + refilled >= LEFT_AFTER * len(ids)
    assert attacked.spent() < reserved / 3


def without_a_limit(stack: Attacked, client: str) -> tuple[int, str]:
    """Stream a request without a limit; return its chunks, at most 50 above the assumed limit, and its id."""
    body = {**WORDS, "model": "m", "stream": True, "ignore_eos": True}
    url, headers = stack.edge.url + CHAT, stack.headers(client)
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        chunks = 0
        for line in answer.iter_lines():
            chunks += bool(DELTA.match(line))
            if chunks == ASSUMED_TOKENS + 50:
                break
        return chunks, str(answer.headers["x-request-id"])


def test_an_answer_without_a_limit_uses_no_more_than_its_reservation(attacked: Attacked) -> None:
    """The engine would generate until the model's length; the limit that the edge assumed reaches it."""
    attacked.redis("flushall")
    chunks, _ = without_a_limit(attacked, "fast")
    assert chunks == ASSUMED_TOKENS + 50, "the attack is possible: a client without a budget has no limit"
    with unharmed_neighbour(attacked, "no limit"):
        began = time.monotonic()
        while time.monotonic() - began < 4.0:
            _, request = without_a_limit(attacked, "metered")
            used = attacked.record(request)["tokens"]
            assert used["completion"] == ASSUMED_TOKENS
            reserved = int(attacked.edge.access_line(request)["tokens_reserved"])
            assert used["prompt"] + used["completion"] <= reserved


async def together(stack: Attacked, requests: int) -> list[int]:
    """Send long requests at once and return their statuses."""
    body = {**WORDS, "model": "m", "max_tokens": 600, "ignore_eos": True, "stream": True}

    async def one(client: httpx.AsyncClient) -> int:
        async with client.stream(
            "POST", stack.edge.url + CHAT, json=body, headers=stack.headers("metered")
        ) as answer:
            await answer.aread()
            return answer.status_code

    async with httpx.AsyncClient(timeout=60) as client:
        return list(await asyncio.gather(*(one(client) for _ in range(requests))))


def test_a_frozen_store_admits_no_more_than_the_local_share(attacked: Attacked) -> None:
    """A tenth of 60,000 tokens a minute while Redis hangs; the attacker asks for three times as much at once."""
    attacked.redis("flushall")
    refused_before = attacked.budget_metric("rate_limit_decisions_total", "local_refused")
    began = time.monotonic()
    with redis_frozen(attacked.redis_port):
        statuses = asyncio.run(together(attacked, 30))
    share = BUDGET * 0.1 * (1 + (time.monotonic() - began) / 60)
    print(f"{statuses.count(200)} of 30 admitted without the store")
    assert attacked.budget_metric("rate_limit_decisions_total", "local_refused") > refused_before
    assert set(statuses) == {200, 429}, "the attack must have happened"
    assert statuses.count(200) * 600 <= share
