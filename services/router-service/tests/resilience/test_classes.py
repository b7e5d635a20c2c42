"""A class keeps its share of slots and queue, returns borrowed slots, and never waits behind a class over its share."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.pipeline.fleet import Fleet
from router_service.pipeline.line import Bounds
from router_service.ports import Endpoint, Health
from router_service.resilience.class_queue import ClassQueue
from router_service.resilience.class_shares import ClassShares
from router_service.resilience.fair_queue import QueueFull, Ticket
from router_service.routing.vocabulary import State

SHARES = {"interactive": 0.5, "batch": 0.25}
NAMES = ["interactive", "batch", "default"]
LEND_AFTER = 10.0


@given(
    st.integers(1, 16),
    st.lists(st.tuples(st.sampled_from([*NAMES, "pop"]), st.sampled_from("ab")), max_size=120),
)
def test_a_class_below_its_part_of_the_queue_is_never_refused(
    size: int, events: list[tuple[str, str]]
) -> None:
    gone: list[Ticket[int]] = []
    queue: ClassQueue[int] = ClassQueue(size, gone.append)
    queue.shares = SHARES
    for number, (name, client) in enumerate(events):
        if name == "pop":
            for other in list(queue.waiting()):
                while queue.pop(class_name=other):
                    pass
            assert len(queue) == 0
            continue
        before = Counter(queue.waiting())
        evicted = len(gone)
        kept = {n: max(1, int(share * size)) for n, share in SHARES.items()}
        try:
            queue.push(client, 0.0, number, name)
        except QueueFull:
            over = [n for n in before if before[n] > kept.get(n, 0)]
            assert before.total() >= size
            assert before[name] >= kept.get(name, 0) or not over
            continue
        assert len(queue) <= size
        for ticket in gone[evicted:]:
            assert ticket.class_name == name or before[ticket.class_name] > kept.get(ticket.class_name, 0)


@given(
    st.integers(2, 32),
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["ask", "end"]), st.floats(0, 4)), max_size=200
    ),
)
def test_slots_kept_for_an_active_class_are_not_taken(
    slots: int, events: list[tuple[str, str, float]]
) -> None:
    shares = ClassShares(SHARES, LEND_AFTER)
    running: Counter[str] = Counter()
    asked: dict[str, float] = {}
    now = 0.0
    for name, event, passed in events:
        now += passed
        if event == "end":
            if running[name]:
                shares.end(name)
                running[name] -= 1
            continue
        shares.asks(name, now)
        asked[name] = now
        free = slots - running.total()
        starts = shares.may_start(name, free, slots, now)
        if running[name] < shares.kept(name, slots):
            assert starts == (free > 0), "a kept slot is refused only while none is free"
        elif starts:
            left = free - 1
            missing = sum(
                max(0, shares.kept(n, slots) - running[n])
                for n in SHARES
                if n != name and now - asked.get(n, float("-inf")) < LEND_AFTER
            )
            assert left >= missing
        if starts:
            shares.begin(name)
            running[name] += 1
        assert shares.running == {n: count for n, count in running.items() if count}


def _fleet(clock: list[float], slots: int, queue_size: int = 64) -> Fleet:
    bounds = Bounds(slots, queue_size, class_shares=SHARES, lend_after_seconds=0.05)
    fleet = Fleet(["p"], bounds, lambda: clock[0])
    fleet.set_endpoints("p", [Endpoint("e", "http://e", "http://e/health")])
    fleet.set_health("p", "e", Health(True, State.IDLE))
    return fleet


@pytest.mark.parametrize("order", [["batch"] * 6 + ["interactive"] * 2, ["interactive"] * 2 + ["batch"] * 6])
async def test_a_freed_slot_goes_to_the_class_that_is_furthest_below_its_part(order: list[str]) -> None:
    clock = [100.0]
    fleet = _fleet(clock, 4)
    (backend,) = fleet.pools["p"].backends
    for _ in range(4):  # Batch was alone and has every slot.
        assert not fleet.must_wait("p", "client", "batch", clock[0])
        fleet.begin(backend, "client", "batch")
    tickets = [fleet.wait("p", "client", 200.0, name)[0] for name in order]
    went = []
    for _ in range(4):
        fleet.end(backend, True, "client", "batch")
        (ticket,) = [t for t in tickets if t.waiter.done()]
        went.append(ticket.class_name)
        tickets.remove(ticket)
        fleet.begin(backend, "client", ticket.class_name)
        fleet.leave("p", ticket)
    # Interactive keeps two of four slots and batch one. The last slot is nobody's, and batch needs it.
    assert went[:2] == ["interactive", "interactive"]
    assert went[2:] == ["batch", "batch"]
    assert fleet.lines["p"].classes is not None
    assert fleet.lines["p"].classes.running == {"interactive": 2, "batch": 2}


async def test_an_idle_class_lends_its_slots_without_any_other_event() -> None:
    clock = [100.0]
    fleet = _fleet(clock, 4)
    (backend,) = fleet.pools["p"].backends
    assert not fleet.must_wait("p", "client", "interactive", clock[0])
    for _ in range(2):
        fleet.begin(backend, "client", "default")
    assert fleet.must_wait("p", "client", "default", clock[0]), "two slots are interactive's"
    ticket, _ = fleet.wait("p", "client", 200.0, "default")
    assert not ticket.waiter.done()
    clock[0] += 0.06
    async with asyncio.timeout(5):
        await ticket.waiter
    fleet.leave("p", ticket)


async def test_counters_are_zero_after_classes_were_removed_and_added() -> None:
    clock = [100.0]
    fleet = _fleet(clock, 2)
    (backend,) = fleet.pools["p"].backends
    fleet.begin(backend, "client", "batch")
    tickets: list[Any] = [fleet.wait("p", "client", 200.0, "batch")[0] for _ in range(3)]
    fleet.reconfigure(["p"], Bounds(2, 64))
    assert len(fleet.lines["p"].queue) == 2
    fleet.reconfigure(["p"], Bounds(2, 64, class_shares=SHARES))
    fleet.end(backend, True, "client", "batch")
    for ticket in tickets:
        fleet.leave("p", ticket)
    line = fleet.lines["p"]
    assert (len(line.queue), line.woken, line.shares.running) == (0, 0, {})
    assert line.classes is not None
    assert line.classes.running == {}
