"""The sample of a pool: uniform, bounded, the same however its windows are cut, and half of it out of one client's reach."""

from collections import Counter
from random import Random

import pytest

from router_service.rollout.plan import NOT_COUNTED, OK, Arm, Measured
from router_service.rollout.sampling import MOST_ROWS, Counted, arm_of, merged

ROW: Measured = (1.0, None, OK)


def test_samples_of_windows_merge_to_the_sample_of_all_their_requests() -> None:
    every, parts = Counted(), [Counted() for _ in range(3)]
    for number in range(3 * MOST_ROWS):
        row = (float(number), None, OK)
        every.add(str(number), f"client {number % 7}", row)
        parts[number % 3].add(str(number), f"client {number % 7}", row)
    whole = arm_of(merged([every]), {})
    assert arm_of(merged(parts), {}) == whole
    assert len(whole.rows) == MOST_ROWS
    assert whole.requests == 3 * MOST_ROWS
    assert whole.sampled() == whole.rows


def test_a_single_client_fills_the_whole_sample() -> None:
    counted = Counted()
    for number in range(3 * MOST_ROWS):
        counted.add(str(number), "", ROW)
    arm = arm_of(counted, {})
    assert len(arm.sampled()) == MOST_ROWS
    assert arm.flooding is None


@pytest.mark.parametrize("seed", range(6))
def test_a_client_that_floods_leaves_half_of_the_sample_to_the_others(seed: int) -> None:
    random = Random(seed)
    windows = [Counted() for _ in range(3)]
    others = 0
    for number in range(20_000):
        flood = random.random() < 0.95
        others += not flood
        client = "flood" if flood else f"client {random.randrange(5)}"
        windows[number % 3].add(str(random.random()), client, (None, None, NOT_COUNTED) if flood else ROW)
    numbers: dict[str, int] = {}
    arm = arm_of(merged(windows), numbers)
    flooding = numbers["flood"]
    assert arm.flooding == flooding
    assert len(arm.rows) <= MOST_ROWS
    rest = arm.sampled(without=flooding)
    assert len(rest) >= MOST_ROWS // 2 - 1
    assert set(Counter(row[3] for row in rest)) == set(numbers.values()) - {flooding}
    share = sum(row[3] == flooding for row in arm.sampled()) / len(arm.sampled())
    assert share == pytest.approx(0.95, abs=0.05), "the sample of all requests has the mix of all requests"


def test_clients_cannot_choose_which_of_their_requests_are_sampled() -> None:
    """Request ids are the clients': with a salt of their own, two controllers sample different requests."""
    samples: list[Arm] = []
    for salt in ("a", "b"):
        counted = Counted(salt)
        for number in range(5 * MOST_ROWS):
            counted.add(str(number), "", (float(number), None, OK))
        samples.append(arm_of(counted, {}))
    kept = [{row[0] for row in arm.rows} for arm in samples]
    assert len(kept[0] & kept[1]) < MOST_ROWS // 2


def test_a_request_id_that_is_used_twice_is_counted_twice() -> None:
    counted = Counted()
    counted.add("same", "c", (None, None, NOT_COUNTED))
    counted.add("same", "c", (5.0, None, OK))
    assert len(arm_of(counted, {}).rows) == 2
