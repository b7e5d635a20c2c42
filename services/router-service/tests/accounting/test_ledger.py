"""The ledger's parts add up to the time to first token, and no value is invented."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.accounting.ledger import ledger
from router_service.pipeline.job import Stamps


def stamps(edge_start: float | None = 999.5, round_trip: float | None = None) -> Stamps:
    return Stamps(
        edge_start, 1000.0, 10.0, 0.2, 10.25, 10.25, 10.26, 10.26, 10.5, 10.501, round_trip_seconds=round_trip
    )


def test_every_part_has_its_own_stamps() -> None:
    found = ledger(stamps(round_trip=0.03), 50.0, 150.0)
    assert found.parts == pytest.approx(
        {
            "edge": 500.0, "router_queue": 200.0, "router": 50.0, "connect": 10.0, "network": 30.0,
            "engine_queue": 50.0, "prefill": 150.0, "relay": 1.0, "unexplained": 10.0,
        }
    )  # fmt: skip
    assert found.first_token_ms == pytest.approx(1001.0)


def test_failed_attempts_before_are_a_part_of_their_own_and_waiting_between_them_is_not() -> None:
    # 2 s on an engine that gave nothing and 0.5 s in the line before the second attempt.
    retried = Stamps(999.5, 1000.0, 10.0, 0.7, 10.25, 12.75, 12.76, 12.76, 13.0, 13.001, 0.5, True)
    found = ledger(retried, 50.0, 150.0)
    assert found.parts["earlier_attempts"] == pytest.approx(2000.0)
    assert found.parts["router_queue"] == pytest.approx(700.0)
    assert found.parts["router"] == pytest.approx(50.0)
    assert found.parts["unexplained"] == pytest.approx(40.0)
    assert sum(v for v in found.parts.values() if v is not None) == pytest.approx(found.first_token_ms)


def test_without_the_engines_figures_the_wait_is_given_and_they_are_null() -> None:
    parts = ledger(stamps(), None, None).parts
    assert parts["engine_queue"] is None
    assert parts["prefill"] is None
    assert parts["first_byte_wait"] == pytest.approx(240.0)
    assert parts["unexplained"] == pytest.approx(0.0, abs=1e-6)
    # The way there and back is not the engine's, and is known without it.
    parts = ledger(stamps(round_trip=0.2), None, None).parts
    assert (parts["network"], parts["first_byte_wait"]) == pytest.approx((200.0, 40.0))


def test_a_network_that_was_not_measured_is_null_and_not_nothing() -> None:
    assert ledger(stamps(), 50.0, 150.0).parts["network"] is None


@pytest.mark.parametrize("edge_start", [1000.5, 994.0])
def test_skewed_clocks_leave_the_edge_out_and_say_so(edge_start: float) -> None:
    found = ledger(stamps(edge_start), 50.0, 150.0)
    assert found.parts["edge"] is None
    assert found.edge_skewed


def test_an_engine_that_claims_more_than_the_wait_makes_unexplained_negative() -> None:
    assert (ledger(stamps(), 500.0, 500.0).parts["unexplained"] or 0) < 0


@given(
    st.none() | st.floats(0, 1e4),
    st.none() | st.floats(0, 1e4),
    st.floats(990, 1001),
    st.none() | st.floats(0, 10),
)
def test_the_parts_always_add_up(
    queue: float | None, prefill: float | None, edge_start: float, round_trip: float | None
) -> None:
    found = ledger(stamps(edge_start, round_trip), queue, prefill)
    assert sum(v for v in found.parts.values() if v is not None) == pytest.approx(found.first_token_ms)
