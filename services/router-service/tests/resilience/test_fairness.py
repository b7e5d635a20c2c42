"""No client keeps another one out: neither of a full queue nor of the slots behind it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.resilience.client_shares import CONTENDED_SECONDS, ClientShares
from router_service.resilience.fair_queue import FairQueue, QueueFull, Ticket

EVENTS = st.lists(st.sampled_from(["a", "a", "a", "b", "c", "pop"]), max_size=200)


@given(st.integers(0, 8), EVENTS)
def test_a_client_is_refused_only_if_no_other_one_has_two_tickets_more(size: int, events: list[str]) -> None:
    gone: list[Ticket[int]] = []
    queue: FairQueue[int] = FairQueue(size, gone.append)
    waiting: Counter[str] = Counter()
    for number, event in enumerate(events):
        if event == "pop":
            ticket = queue.pop()
            assert (ticket is None) == (waiting.total() == 0)
            if ticket is not None:
                waiting[ticket.client] -= 1
            continue
        most = max(waiting.values(), default=0)
        full = waiting.total() >= size
        evicted = len(gone)
        try:
            queue.push(event, 0.0, number)
        except QueueFull:
            assert full
            assert waiting[event] > most - 2
            assert len(gone) == evicted
            continue
        waiting[event] += 1
        if full:
            (loser,) = gone[evicted:]
            assert waiting[loser.client] == most, "the longest line gives way"
            assert loser.gave_way
            assert not queue.remove(loser)
            waiting[loser.client] -= 1
        assert len(queue) == waiting.total() <= size


def test_the_newest_ticket_of_the_longest_line_gives_way() -> None:
    gone: list[Ticket[int]] = []
    queue: FairQueue[int] = FairQueue(4, gone.append)
    for number in range(4):
        queue.push("greedy", 0.0, number)
    queue.push("modest", 0.0, 100)
    assert [ticket.waiter for ticket in gone] == [3]
    assert [ticket.waiter for ticket in iter(queue.pop, None)] == [0, 100, 1, 2]


@given(st.integers(1, 64), st.sampled_from([0.25, 0.5, 0.9, 1.0]), EVENTS)
def test_a_client_in_company_never_has_more_than_its_share(
    slots: int, share: float, events: list[str]
) -> None:
    shares = ClientShares(share)
    running: Counter[str] = Counter()
    shares.asks("b", 0.0)
    shares.asks("a", 0.0)
    for event in events:
        if event == "pop":
            if running["a"]:
                running["a"] -= 1
                shares.end("a")
            continue
        shares.asks(event, 1.0)
        if running.total() < slots and not shares.full(event, 1.0, lambda: slots):
            running[event] += 1
            shares.begin(event)
        limit = slots if share == 1.0 else max(1, min(int(slots * share), slots - 1))
        assert max(running.values(), default=0) <= limit
    for client, number in running.items():
        for _ in range(number):
            shares.end(client)
    assert shares.running == {}


def test_a_client_alone_may_take_every_slot_and_again_ten_minutes_after_another_one() -> None:
    shares = ClientShares(0.5)
    for _ in range(4):
        shares.asks("a", 0.0)
        assert not shares.full("a", 0.0, lambda: 4)
        shares.begin("a")
    shares.asks("b", 1.0)
    assert shares.full("a", 1.0, lambda: 4)
    assert not shares.full("b", 1.0, lambda: 4)
    assert not shares.full("a", 2.0 + CONTENDED_SECONDS, lambda: 4)


@pytest.mark.parametrize("slots", [0, 1])
def test_a_share_is_at_least_one_slot(slots: int) -> None:
    shares = ClientShares(0.1)
    shares.asks("b", 0.0)
    shares.asks("a", 0.0)
    assert not shares.full("a", 0.0, lambda: slots)
