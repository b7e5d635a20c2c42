"""The capacity search ends, brackets the limit, and says when there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity import LOWEST_RATE, highest_rate


@given(limit=st.floats(LOWEST_RATE * 2, 10_000), start=st.floats(0.2, 1000))
def test_it_finds_the_limit_within_its_precision(limit: float, start: float) -> None:
    found = highest_rate(lambda rate: rate <= limit, start, precision=0.1)
    assert found is not None
    assert found <= limit <= found * 1.1 * (1 + 1e-9)


def test_it_says_when_nothing_holds() -> None:
    assert highest_rate(lambda rate: False, 10.0, 0.1) is None


@pytest.mark.parametrize("precision", [0.05, 0.5])
def test_a_finer_precision_costs_more_trials(precision: float) -> None:
    trials: list[float] = []

    def holds(rate: float) -> bool:
        trials.append(rate)
        return rate <= 7

    highest_rate(holds, 1.0, precision)
    assert len(trials) <= 12
