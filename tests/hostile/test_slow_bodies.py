"""Attack: bodies that stop 64 bytes before their end, over hundreds of connections and over one HTTP/2 connection."""

import contextlib
import time

import pytest

from harness.attacks.bodies import (
    BODY_BYTES,
    CLIENT_BYTES,
    is_refused,
    push,
    slow_post,
    two_slow_bodies_are_taken,
)
from harness.stacks.attacked import ATTACK_SECONDS, FULL, MIB, Attacked, unharmed_neighbour
from harness.waiting import eventually

pytestmark = pytest.mark.service

CONNECTIONS = 330 if FULL else 80


def test_slow_bodies_over_many_connections(attacked: Attacked) -> None:
    """The buffered bytes of one client stay below its limit; the edge refuses the rest at once."""
    before = attacked.edge_bytes()
    with unharmed_neighbour(attacked, "slow bodies"), contextlib.ExitStack() as opened:
        began = time.monotonic()
        clients = [slow_post(attacked, opened) for _ in range(CONNECTIONS)]
        push(clients, BODY_BYTES - 64, max(20.0, ATTACK_SECONDS))
        refused = sum(is_refused(client) for client in clients)
        grown = attacked.edge_bytes() - before
        eventually(lambda: time.monotonic() - began > ATTACK_SECONDS, "the attack lasts", 90)
    print(f"{CONNECTIONS - refused} of {CONNECTIONS} bodies held, edge +{grown // MIB} MiB")
    assert 4 <= CONNECTIONS - refused <= CLIENT_BYTES // BODY_BYTES + 1, "some are held, most refused"
    assert grown < CLIENT_BYTES + 64 * MIB


def test_slow_bodies_over_one_connection_of_http2(attacked: Attacked) -> None:
    """100 streams announce a body each and send what the windows allow; the edge takes two of them."""
    two_slow_bodies_are_taken(attacked, "slow bodies, HTTP/2")
