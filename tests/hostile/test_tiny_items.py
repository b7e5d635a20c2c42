"""Attack: bodies of a million tiny items, which cost far more to read than their bytes suggest."""

import time

import httpx
import pytest

from harness.attacks.bodies import TINY_ITEMS
from harness.stacks.attacked import ATTACK_SECONDS, MIB, Attacked, unharmed_neighbour

pytestmark = pytest.mark.service


def test_a_million_tiny_items_do_not_hold_the_router(attacked: Attacked) -> None:
    """Every kind in turn through the edge, two bodies a second."""
    router_before = attacked.router_bytes()
    statuses: dict[str, int] = {}
    sent = 0
    with unharmed_neighbour(attacked, "tiny items"), httpx.Client(timeout=60) as client:
        began = time.monotonic()
        while time.monotonic() - began < ATTACK_SECONDS or sent < 2 * len(TINY_ITEMS):
            kind = list(TINY_ITEMS)[sent % len(TINY_ITEMS)]
            path, body = TINY_ITEMS[kind]
            answer = client.post(attacked.edge.url + path, content=body, headers=attacked.headers("fast"))
            statuses[kind] = answer.status_code
            sent += 1
            time.sleep(0.4)
    grown = attacked.router_bytes() - router_before
    print(f"{sent} bodies: {statuses}, router +{grown // MIB} MiB")
    assert statuses["token ids, unknown model"] == 404, "the attack must have happened: the router read it"
    for kind in ("empty prompts", "empty lists", "parts", "messages", "nested lists"):
        assert statuses[kind] == 400, kind
    assert 500 not in statuses.values()
    assert grown < 200 * MIB
