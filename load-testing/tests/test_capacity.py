"""The capacity search ends, brackets the limit, and reports why it stopped."""

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_testing import capacity
from load_testing.capacity import LOWEST_RATE, NoCapacity, Search, highest_rate
from load_testing.reports.summary import Summary


@given(limit=st.floats(LOWEST_RATE, 10_000), start=st.floats(0.01, 1000))
def test_it_finds_the_limit_within_its_precision(limit: float, start: float) -> None:
    found = highest_rate(lambda rate: rate <= limit, start, precision=0.1)
    assert found is not None
    assert found <= limit <= found * 1.1 * (1 + 1e-9)


@pytest.mark.parametrize("start", [10.0, 0.15, 0.01])
def test_it_says_when_nothing_holds_once_it_has_tried_the_lowest_rate(start: float) -> None:
    trials: list[float] = []
    assert highest_rate(lambda rate: bool(trials.append(rate)), start, 0.1) is None
    assert trials[-1] == LOWEST_RATE
    assert trials.count(LOWEST_RATE) == 1


@pytest.mark.parametrize("precision", [0.05, 0.5])
def test_a_finer_precision_costs_more_trials(precision: float) -> None:
    trials: list[float] = []

    def holds(rate: float) -> bool:
        trials.append(rate)
        return rate <= 7

    highest_rate(holds, 1.0, precision)
    assert len(trials) <= 12


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--precision", "0"),
        ("--precision", "nan"),
        ("--precision", "fine"),
        ("--start", "-1"),
        ("--start", "0"),
        ("--seconds", "0"),
        ("--seconds", "inf"),
        ("--prometheus", "here"),
    ],
)
def test_a_number_that_would_never_end_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        capacity.main([f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


class Trials(Search):
    """A search whose trials end with given results: "holds", "slow" or "late"."""

    def __init__(self, endings: list[str]) -> None:
        options = argparse.Namespace(workload="fixed-rate", prometheus=None, start=4.0, precision=1.0)
        super().__init__(options, {"OPENAI_BASE_URL": "http://x/v1"}, Path())
        self.endings = endings

    def _trial(self, rate: float) -> Summary:
        ending = self.endings.pop(0)
        self.steps.append({"rate_per_second": rate, "holds": ending == "holds"})
        invalid = ["invalid: 4 % late"] if ending == "late" else []
        problems = [] if ending == "holds" else [ending]
        return Summary({"started_at": 0.0, "ended_at": 0.0}, invalid, problems)


def test_a_late_generator_is_not_taken_for_the_platforms_limit() -> None:
    search = Trials(["holds", "late", "late"])
    with pytest.raises(NoCapacity, match=r"the generator stopped the search at 8.00 .*before is 4.00"):
        search.capacity()
    assert search.stopped_by is not None
    assert search.stopped_by.verdict == "generator"


@pytest.mark.parametrize("second", [["late", "slow"], ["slow", "late"], ["slow", "slow"]])
def test_one_valid_trial_that_does_not_hold_is_enough(second: list[str]) -> None:
    search = Trials(["holds", *second])
    assert search.capacity() == 4.0
    assert search.stopped_by is not None
    assert search.stopped_by.sentence.startswith("unknown: not a run on the local stack")


def test_a_hiccup_of_the_generator_is_tried_again() -> None:
    assert Trials(["late", "holds", "slow", "slow"]).capacity() == 4.0
