"""One request's verdict: the layer that owns the largest excess over what is usual in its pool."""

import pytest

from router_service.accounting.ledger import Ledger
from router_service.accounting.verdict import Baselines
from router_service.routing.vocabulary import Verdict

USUAL: dict[str, float | None] = {
    "edge": 2.0,
    "router_queue": 0.0,
    "router": 1.0,
    "engine_queue": 5.0,
    "prefill": 50.0,
}


def usual_pool() -> Baselines:
    baselines = Baselines()
    for _ in range(30):
        baselines.verdict("p", Ledger(USUAL, 58.0, False))
    return baselines


@pytest.mark.parametrize(
    ("part", "value", "verdict"),
    [
        ("edge", 90.0, Verdict.ROUTING),
        ("engine_queue", 200.0, Verdict.CAPACITY),
        ("prefill", 400.0, Verdict.EXECUTION),
        ("prefill", 55.0, Verdict.NONE),
        ("earlier_attempts", 4000.0, Verdict.EXECUTION),
    ],
)
def test_the_part_with_the_largest_excess_is_blamed(part: str, value: float, verdict: Verdict) -> None:
    # A failed attempt outweighs the short wait that came with it, the first time it happens too.
    ledger = Ledger({**USUAL, "engine_queue": 40.0, part: value}, 0.0, False)
    if value == 55.0:
        ledger = Ledger({**USUAL, part: value}, 0.0, False)
    assert usual_pool().verdict("p", ledger) is verdict


def test_before_twenty_requests_nobody_is_blamed() -> None:
    baselines = Baselines()
    baselines.verdict("p", Ledger(USUAL, 58.0, False))
    assert baselines.verdict("p", Ledger({**USUAL, "prefill": 900.0}, 0.0, False)) is Verdict.NONE
