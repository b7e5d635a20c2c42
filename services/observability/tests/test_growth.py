"""Growth of counters adds up across restarts: pure, and on a real Prometheus whose scraped process is replaced."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.servers.recorded_prometheus import recorded_prometheus
from observability.why_ttft.counter_growth import grown, growth
from platform_contracts.prometheus import Prometheus


def test_without_a_restart_it_is_last_minus_first() -> None:
    assert grown([(0, 5), (1, 7), (2, 12)], ()) == 7


def test_a_counter_that_fell_counts_from_zero_again() -> None:
    assert grown([(0, 5), (1, 9), (2, 3), (3, 4)], ()) == 4 + 4


def test_a_new_process_that_has_already_counted_further_is_told_by_its_start() -> None:
    assert grown([(0, 5), (1, 6), (4, 8), (5, 9)], (2.5,)) == 1 + 8 + 1
    assert grown([(0, 5), (1, 6), (4, 8), (5, 9)], (-100.0,)) == 4


@given(
    lives=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5),
)
def test_any_number_of_lives_adds_up(lives: list[list[int]]) -> None:
    samples, starts, at, total = [(0.0, 0.0)], [], 0.5, 0
    for life in lives:
        starts.append(at)
        value = 0
        for step in life:
            at += 1
            value += step
            total += step
            samples.append((at, float(value)))
        at += 0.5
    assert grown(samples, starts) == total


BEGAN = 1_795_600_000
"""Epoch seconds of the first sample of the recorded hour."""

# Two processes of one instance, replaced 25 s after the beginning; scraped every 5 s.
LIVES = {
    "router_first_tokens_total": {
        'affinity="kept"': [0, 10, 20, 30, 40, None, 2, 4, 6, 8],  # fell
        'affinity="placed"': [1, 1, 1, 1, 1, None, 5, 9, 12, 20],  # the new count is past the old one at once
        'affinity="broken"': [None, None, 3, 4, 6, None, None, None, None, None],  # gone with its process
        'affinity="off"': [None, None, None, None, None, None, None, 2, 2, 7],  # new
    },
    "process_start_time_seconds": {"": [BEGAN - 100] * 5 + [None] + [BEGAN + 26] * 4},
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that remembers :data:`LIVES`."""
    folder: Path = tmp_path_factory.mktemp("growth")
    with recorded_prometheus(folder, LIVES, BEGAN) as url, Prometheus(url) as client:
        yield client


@pytest.mark.service
def test_a_window_with_a_restart_counts_both_lives(prometheus: Prometheus) -> None:
    found = growth(prometheus.instant, "router_first_tokens_total", BEGAN + 5, BEGAN + 45)
    by_affinity = {labels["affinity"]: value for labels, value in found}
    assert by_affinity == {"kept": 30 + 8, "placed": 20, "broken": 6, "off": 7}


@pytest.mark.service
def test_a_window_without_one_is_a_difference(prometheus: Prometheus) -> None:
    found = growth(
        prometheus.instant, 'router_first_tokens_total{affinity=~"kept|off"}', BEGAN + 30, BEGAN + 45
    )
    assert {labels["affinity"]: value for labels, value in found} == {"kept": 6, "off": 7}
