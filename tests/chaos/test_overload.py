"""Three times the engines' capacity: admitted requests meet the SLO, the rest are refused early with `retry-after`."""

import time
from collections.abc import Iterator, Sequence

import pytest

from harness.chaos.load import Answer, Ending
from harness.chaos.now_page import NowPage
from harness.chaos.table import Reported, Row, row_of
from harness.chaos.world import POOL, Watch, World, chaos_world, eventually
from harness.named_pages import Page, opens_browsers, show_everywhere

pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(500)]

# Two engines of 4 sequences, 24 tokens of 20 ms: about 16 requests/s. The simulator sleeps instead of
# computing, so the engines are the bottleneck and not this machine.
STEADY = 14.0
QUEUE_SECONDS = 1.0
SLO_SECONDS = 3.0
FAULT = "overload: 3 × capacity"
CAPACITY = Page("/", ["PoolAtCapacity", "the bottleneck is capacity"])
OPTIONS = "--step-seconds 0.02 --step-seconds-per-sequence 0 --max-num-seqs 4"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    limits = {"max_in_flight_per_backend": 5, "queue_size": 16, "queue_seconds": QUEUE_SECONDS}
    with chaos_world(tmp_path_factory.mktemp("overload"), OPTIONS, limits=limits) as world:
        yield world


def goodput(answers: Sequence[Answer], seconds: float) -> float:
    """Return successful requests per second within the SLO, over the middle of a run."""
    began = answers[0].sent_at + 2
    kept = [
        a
        for a in answers
        if a.ending is Ending.GOOD
        and a.ttft_seconds is not None
        and a.ttft_seconds <= SLO_SECONDS
        and began <= a.ended_at <= began + seconds
    ]
    return len(kept) / seconds


def until_named(small: World, watch: Watch) -> None:
    """Wait until the platform and its page Now report a lack of capacity."""
    began, url = time.monotonic(), small.stack.url("CONSOLE_PORT")
    page = NowPage(url, CAPACITY.words)
    eventually(
        lambda: "PoolAtCapacity" in watch.alerts and "capacity" in watch.verdicts and page.tells(),
        lambda: f"the platform says that it is capacity: {watch}; on the page {page.seen}",
        90,
    )
    if opens_browsers():
        show_everywhere(url, FAULT, {"now": CAPACITY}, began, max(page.seen.values()))


def test_three_times_the_capacity(small: World, table: list[Row]) -> None:
    eventually(small.quiet, "no alert before", 60)
    peak = 0.0
    for rate in (STEADY, STEADY * 1.25):
        with small.under_load(rate) as load:
            time.sleep(16)
            peak = max(peak, goodput(load.finish(), 12))
    assert peak > 0.6 * STEADY, "the engines were the bottleneck, not this machine"
    eventually(small.quiet, "no alert before the overload", 120)

    with small.watching() as watch, small.under_load(3 * peak) as load:
        began = time.monotonic()
        until_named(small, watch)
        time.sleep(max(0.0, 20 - (time.monotonic() - began)))
        answers = load.finish()
        ended = time.monotonic()
        with small.under_load(STEADY / 2) as after:
            eventually(lambda: sum(a.ending is Ending.GOOD for a in after.so_far()) > 10, "recovered", 60)
            recovered = time.monotonic() - ended
            later = after.finish()

    over = goodput(answers, 15)
    refused = sorted(a.total_seconds for a in answers if a.ending is Ending.REFUSED)
    slowest = refused[int(len(refused) * 0.99)]
    print(
        f"\npeak {peak:.1f}/s, at three times that {over:.1f}/s; {len(refused)} refused, p99 {slowest:.2f} s"
    )
    table.append(
        row_of(
            FAULT,
            f"{len(answers) / (answers[-1].sent_at - answers[0].sent_at):.0f} requests/s sent by the client's own "
            f"count; goodput {over:.1f}/s of a peak of {peak:.1f}/s",
            answers,
            Reported(
                watch.first(["PoolAtCapacity"], "capacity"),
                ", ".join(sorted(watch.blamed())),
                list(watch.alerts),
            ),
            recover=recovered,
        )
    )
    assert {a.ending for a in answers} <= {Ending.GOOD, Ending.REFUSED}, (
        "only complete responses and refusals"
    )
    assert len(answers) / (answers[-1].sent_at - answers[0].sent_at) > 2.9 * peak, (
        "the load is three times the peak"
    )
    assert sum(a.late_seconds > 0.1 for a in answers) <= 0.01 * len(answers), "the load was sent on time"
    assert len(refused) > len(answers) / 2
    assert over >= 0.8 * peak
    firsts = sorted(a.ttft_seconds for a in answers if a.ending is Ending.GOOD and a.ttft_seconds is not None)
    assert firsts[int(len(firsts) * 0.99)] <= SLO_SECONDS, "admitted requests are served in time"
    assert slowest < QUEUE_SECONDS + 2.0, "refusals are early"
    assert all(a.ending is Ending.GOOD for a in later[-5:])
    eventually(lambda: small.router_metric("router_queue_length", pool=POOL) == 0, "the queue is empty")
