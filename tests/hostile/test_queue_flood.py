"""Attack: one client keeps every slot busy with long streams and the queue full; a second client is still served."""

import asyncio
import time

import pytest

from harness.attacks.streams import CLIENTS, flood
from harness.stacks.attacked import ATTACK_SECONDS, Attacked, unharmed_neighbour
from harness.waiting import eventually

# The attacker reads thousands of events a second, so the short form measures little but the machine.
pytestmark = [pytest.mark.service, pytest.mark.full]


def test_a_flood_of_one_client_leaves_slots_and_the_queue_to_another(attacked: Attacked) -> None:
    with unharmed_neighbour(attacked, "queue flood"):
        began = time.monotonic()
        ends = asyncio.run(flood(attacked, max(ATTACK_SECONDS, 8.0)))
    print(f"the attacker's requests: {ends} in {time.monotonic() - began:.0f} s")
    assert ends.get("200", 0) >= CLIENTS, "the attack must have happened: it used more than every slot"

    def idle() -> bool:
        return attacked.router_metric("router_in_flight") == 0

    eventually(idle, "the attack has ended")
