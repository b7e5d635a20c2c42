"""The open-loop user counts its requests and their lateness, including those of sessions."""

import time
from typing import Any

import gevent
import pytest

from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.users.open_loop import LATE_SECONDS, Run
from load_testing.workloads import Workload


class Answering:
    """Replaces the client: every response is good and takes no time."""

    def __init__(self, blocks_seconds: float = 0.0) -> None:
        self._blocks_seconds = blocks_seconds

    def send(self, record: RequestRecord, body: Any, *, due: float, **_: Any) -> str:
        record.outcome = Outcome.GOOD
        record.late_seconds = time.perf_counter() - due
        gevent.spawn(
            time.sleep, self._blocks_seconds
        )  # stops the whole process, like a generator without CPU
        return "an answer"


def run(client: Any, records: list[RequestRecord], turns: int = 1, think_seconds: float = 0.0) -> Run:
    kind = {
        "name": "kind",
        "prompt_words": {"low": 1, "high": 1},
        "turns": turns,
        "think_seconds": think_seconds,
    }
    workload = Workload.model_validate(
        {
            "description": "x",
            "arrivals": "constant",
            "rate_per_second": 1,
            "duration_seconds": 1,
            "requests": [kind],
        }
    )
    return Run(workload, 10.0 * turns, 0.1, 1, {"load": client}, records.append)


def test_a_later_turn_is_due_after_its_user_has_thought_and_late_when_it_is_sent_after_that() -> None:
    records: list[RequestRecord] = []
    run(Answering(blocks_seconds=0.3), records, turns=2, think_seconds=0.1).dispatch()
    first, second = records
    assert first.late_seconds < LATE_SECONDS
    assert second.late_seconds == pytest.approx(0.2, abs=0.1)


def test_every_turn_counts_as_planned() -> None:
    records: list[RequestRecord] = []
    schedule = run(Answering(), records, turns=3)
    schedule.dispatch()
    assert schedule.planned == len(records) == 3


def test_a_request_whose_record_was_lost_is_still_planned() -> None:
    records: list[RequestRecord] = []
    schedule = run(Answering(), records)

    def full(record: RequestRecord) -> None:
        raise OSError("No space left on device")

    schedule.on_record = full
    schedule.dispatch()
    assert (schedule.planned, records) == (1, [])
