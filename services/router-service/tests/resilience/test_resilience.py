"""Breaker, retry budget and queue keep their bounds under any sequence of events."""

from hypothesis import given
from hypothesis import strategies as st

from router_service.resilience.breaker import MIN_RAMP, Breaker, BreakerSettings
from router_service.resilience.fair_queue import FairQueue, QueueFull
from router_service.resilience.retry_budget import RetryBudget

SETTINGS = BreakerSettings(failures=3, open_seconds=10.0, slow_start_seconds=20.0)


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(3):
        breaker.begin()
        breaker.failed(at)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(10):
        breaker.failed(0.0)
        breaker.failed(0.0)
        breaker.succeeded(0.0)
    assert not breaker.blocked(0.0)
    assert opened().blocked(9.9)


def test_when_its_time_is_over_exactly_one_probe_goes_through() -> None:
    breaker = opened()
    assert not breaker.blocked(10.0)
    breaker.begin()
    assert breaker.blocked(10.0)
    assert breaker.blocked(100.0)


def test_a_probe_that_succeeds_closes_it_and_starts_slowly() -> None:
    breaker = opened()
    assert not breaker.blocked(10.0)
    breaker.begin()
    breaker.succeeded(12.0)
    assert not breaker.blocked(12.0)
    assert breaker.ramp(12.0) == MIN_RAMP
    assert breaker.ramp(22.0) == 0.5
    assert breaker.ramp(32.0) == 1.0


def test_a_probe_that_fails_opens_it_again_for_the_whole_time() -> None:
    breaker = opened()
    assert not breaker.blocked(10.0)
    breaker.begin()
    breaker.failed(11.0)
    assert breaker.blocked(20.9)
    assert not breaker.blocked(21.0)


def test_a_probe_whose_client_left_says_nothing_and_lets_the_next_one_probe() -> None:
    breaker = opened()
    assert not breaker.blocked(10.0)
    breaker.begin()
    breaker.cancelled()
    assert not breaker.blocked(10.0)


@given(st.lists(st.sampled_from(["enter", "leave", "spend", "back"]), max_size=300))
def test_retries_under_way_never_exceed_the_budget_when_they_begin(events: list[str]) -> None:
    budget = RetryBudget(0.2, 3)
    for event in events:
        if event == "enter":
            budget.enter()
        elif event == "leave" and budget.active > 0:
            budget.leave()
        elif event == "spend":
            allowed = budget.retrying < max(3, int(budget.active * 0.2))
            assert budget.try_spend() is allowed
        elif event == "back" and budget.retrying:
            budget.give_back()
        assert 0 <= budget.remaining <= budget.limit


def test_one_client_waits_in_order_and_two_take_turns() -> None:
    queue: FairQueue[int] = FairQueue(10)
    for number in range(3):
        queue.push("greedy", 0.0, number)
    queue.push("modest", 0.0, 100)
    served = [ticket.waiter for ticket in iter(queue.pop, None)]
    assert served == [0, 100, 1, 2]


def test_a_full_line_takes_nobody() -> None:
    queue: FairQueue[int] = FairQueue(1)
    queue.push("a", 0.0, 1)
    try:
        queue.push("b", 0.0, 2)
    except QueueFull:
        pass
    else:
        raise AssertionError("a second ticket was taken")
    assert len(queue) == 1


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40),
    st.data(),
)
def test_the_line_counts_right_whoever_leaves_and_positions_come_true(
    pushes: list[tuple[str, bool]], data: st.DataObject
) -> None:
    queue: FairQueue[int] = FairQueue(100)
    tickets = [queue.push(client, 0.0, number) for number, (client, _) in enumerate(pushes)]
    stay = []
    for ticket, (_, leaves) in zip(tickets, pushes, strict=True):
        if leaves:
            assert queue.remove(ticket)
            assert not queue.remove(ticket)
        else:
            stay.append(ticket)
    assert len(queue) == len(stay)
    positions = {ticket.waiter: queue.position(ticket) for ticket in stay}
    served = [ticket.waiter for ticket in iter(queue.pop, None)]
    assert sorted(served) == sorted(t.waiter for t in stay)
    assert positions == {number: place for place, number in enumerate(served)}


def test_an_answer_to_a_request_from_before_it_opened_does_not_close_it() -> None:
    breaker = opened()
    breaker.succeeded(5.0)
    assert breaker.blocked(9.9)
    assert not breaker.blocked(10.0)
