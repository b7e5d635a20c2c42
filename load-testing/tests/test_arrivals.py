"""The open-loop schedule has the expected counts and order, and is the same for the same seed."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_testing.measure.arrivals import Segment, schedule
from load_testing.shapes import SHAPES


def test_a_constant_process_sends_every_one_over_rate_seconds() -> None:
    times = list(schedule([Segment(2.0, 5.0, 5.0)], "constant", seed=1))
    assert times == pytest.approx([0.2 * i for i in range(1, 11)])


def test_a_ramp_sends_as_many_as_its_area_and_more_in_its_second_half() -> None:
    times = list(schedule([Segment(10.0, 0.0, 20.0)], "constant", seed=1))
    assert len(times) == 100
    assert sum(t > 5.0 for t in times) == 75


def test_a_poisson_process_has_gaps_as_spread_as_their_mean() -> None:
    times = list(schedule([Segment(2000.0, 5.0, 5.0)], "poisson", seed=7))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((g - mean) ** 2 for g in gaps) / len(gaps))
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)


def test_the_same_seed_gives_the_same_schedule_and_another_seed_another() -> None:
    segments = [Segment(10.0, 1.0, 9.0)]
    assert list(schedule(segments, "poisson", 3)) == list(schedule(segments, "poisson", 3))
    assert list(schedule(segments, "poisson", 3)) != list(schedule(segments, "poisson", 4))


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    rate=st.floats(0.5, 200),
    seconds=st.floats(1, 600),
    seed=st.integers(0, 2**32),
)
def test_times_are_ordered_and_inside_the_run_for_every_shape(
    shape: str, rate: float, seconds: float, seed: int
) -> None:
    segments = SHAPES[shape](rate, seconds)
    assert sum(s.seconds for s in segments) == pytest.approx(seconds)
    times = list(itertools.islice(schedule(segments, "poisson", seed), 2000))
    assert times == sorted(times)
    assert all(0 <= t <= seconds * (1 + 1e-9) for t in times)


@given(rate=st.floats(1, 50), end=st.floats(0, 50), seconds=st.floats(1, 60))
def test_a_constant_process_sends_the_integral_of_its_rate(rate: float, end: float, seconds: float) -> None:
    segment = Segment(seconds, rate, end)
    assert abs(len(list(schedule([segment], "constant", 1))) - segment.expected) <= 1
