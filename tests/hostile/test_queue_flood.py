"""Attack: one client keeps every slot busy with long streams and the queue full; a second client is still served."""

import asyncio
import time

import httpx
import pytest

from harness.servers.edges import CHAT
from harness.stacks.attacked import ATTACK_SECONDS, ENGINE_SLOTS, Attacked, unharmed_neighbour
from harness.waiting import eventually

# The attacker reads thousands of events a second, so the short form measures little but the machine.
pytestmark = [pytest.mark.service, pytest.mark.full]

CLIENTS = 3 * ENGINE_SLOTS


async def flood(stack: Attacked, seconds: float) -> dict[str, int]:
    """Keep 60 requests of 3 s each under way, three for every two slots; count how they end."""
    ends: dict[str, int] = {}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 300,
        "ignore_eos": True,
        "stream": True,
    }
    until = time.monotonic() + seconds

    async def one(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            answer = await client.post(stack.edge.url + CHAT, json=body, headers=stack.headers("fast"))
            ends[str(answer.status_code)] = ends.get(str(answer.status_code), 0) + 1
            await asyncio.sleep(0.3 if answer.status_code == 503 else 0)

    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        await asyncio.gather(*(one(client) for _ in range(CLIENTS)))
    return ends


def test_a_flood_of_one_client_leaves_slots_and_the_queue_to_another(attacked: Attacked) -> None:
    with unharmed_neighbour(attacked, "queue flood"):
        began = time.monotonic()
        ends = asyncio.run(flood(attacked, max(ATTACK_SECONDS, 8.0)))
    print(f"the attacker's requests: {ends} in {time.monotonic() - began:.0f} s")
    assert ends.get("200", 0) >= CLIENTS, "the attack must have happened: it used more than every slot"

    def idle() -> bool:
        return attacked.router_metric("router_in_flight") == 0

    eventually(idle, "the attack has ended")
