"""One fault under load, from its start to recovery: shared by every scenario of the suite."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.chaos.faults import Fault, Proof
from harness.chaos.load import Answer, Ending
from harness.chaos.now_page import NowPage
from harness.chaos.replicas import Router
from harness.chaos.table import Reported, Row, row_of
from harness.chaos.world import Watch, World, eventually
from harness.named_pages import NAMED_SECONDS, Page, opens_browsers, show_everywhere

NOTICED_SECONDS = 90.0
HEALED_SECONDS = 150.0


@dataclass(frozen=True)
class Expected:
    """What the platform must report about a fault, and which outcomes of requests are allowed.

    ``verdict`` must be the only verdict ("none": no component is blamed); None accepts any. ``changes`` must be
    listed on the console's page Now, for faults that are over before an alert.
    """

    alerts: Sequence[str] = ()
    verdict: str | None = None
    allowed: Sequence[Ending] = ()
    changes: Sequence[str] = ()

    def on_page(self) -> list[str]:
        """Return the words that the console's page Now must show."""
        named = [] if self.verdict in (None, "none") else [f"the bottleneck is {self.verdict}"]
        return [*self.alerts, *named, *self.changes]

    def reported_in(self, watch: Watch) -> bool:
        """Return whether the expected alerts and verdict have appeared."""
        return set(self.alerts) <= set(watch.alerts) and (
            self.verdict in (None, "none") or self.verdict in watch.verdicts
        )

    def check(self, name: str, answers: Sequence[Answer], watch: Watch) -> None:
        """Check the outcomes of all requests and which component the platform blamed.

        Raises:
            AssertionError: a request was lost, its outcome is not allowed, or the wrong component was blamed.
        """
        lost = [answer for answer in answers if answer.ending is Ending.LOST]
        assert not lost, f"{name}: {len(lost)} lost: {lost[:3]}"
        others = [a for a in answers if a.ending not in {Ending.GOOD, *self.allowed}]
        assert not others, (
            f"{name}: {len(others)} ended in a way that this fault does not allow: {others[:3]}"
        )
        if self.verdict is not None:
            assert watch.blamed() <= {self.verdict}, (
                f"{name}: {watch.blamed()} was blamed instead of {self.verdict}"
            )


@dataclass(frozen=True)
class Traffic:
    """The load during a fault: requests/s, sessions, and the edge and routers it goes through (the stack's own)."""

    rate: float = 20.0
    sessions: int = 0
    url: str | None = None
    routers: Sequence[Router] = ()


USUAL = Traffic()


def endure(
    world: World,
    name: str,
    fault: Fault,
    expected: Expected,
    traffic: Traffic = USUAL,
    *,
    at_least_seconds: float = 6.0,
    well_seconds: float = 0.0,
) -> tuple[Row, list[Answer]]:
    """Put ``world`` under load, cause ``fault``, heal it; return the table row and every response.

    The fault lasts until the platform has reported what is ``expected``, and at least ``at_least_seconds``.
    Before the fault, the load runs undisturbed for at least ``well_seconds``, because some alerts compare
    with an earlier time.

    Raises:
        AssertionError: the fault was not reported as expected, or the platform did not recover.
    """
    eventually(world.quiet, lambda: f"quiet before: {world.alerts()} {world.verdict()}", HEALED_SECONDS)
    resumed_before = _resumed(world, traffic.routers)
    with world.under_load(traffic.rate, sessions=traffic.sessions, url=traffic.url) as load:
        load.settle()
        eventually(
            world.quiet, lambda: f"quiet under load: {world.alerts()} {world.verdict()}", HEALED_SECONDS
        )
        time.sleep(well_seconds)
        with world.watching() as watch:
            proof = _let_happen(world, name, fault, watch, expected, at_least_seconds)
            healed = time.time()
            eventually(world.ready, f"ready after {name}", HEALED_SECONDS)
            again = time.time()
            eventually(lambda: load.good_since(again) >= 10, f"good answers after {name}", 60)
            recovered = time.time() - healed
        answers = load.finish()
        answers += proof.answers
    resumed = _resumed(world, traffic.routers) - resumed_before
    reported = Reported(
        watch.first(set(expected.alerts), expected.verdict),
        ", ".join(sorted(watch.blamed())) or "none",
        list(watch.alerts),
    )
    row = row_of(name, proof.text, answers, reported, resumed=max(0, int(resumed)), recover=recovered)
    expected.check(name, answers, watch)
    return row, answers


def _let_happen(
    world: World, name: str, fault: Fault, watch: Watch, expected: Expected, at_least_seconds: float
) -> Proof:
    with fault(world) as proof:
        began = time.monotonic()
        url = world.stack.url("CONSOLE_PORT")
        page = NowPage(url, expected.on_page())
        eventually(
            lambda: expected.reported_in(watch) and page.tells(),
            lambda: f"{expected}; seen {watch}; on the page {page.seen}",
            NOTICED_SECONDS,
        )
        late = {word: seconds for word, seconds in page.seen.items() if seconds > NAMED_SECONDS}
        assert not late, f"the page Now named these too late: {late}"
        if expected.on_page() and opens_browsers():
            pages = {"now": Page("/", expected.on_page())}
            show_everywhere(url, name, pages, began, max(page.seen.values()))
        time.sleep(max(0.0, at_least_seconds - (time.monotonic() - began)))
    return proof


def _resumed(world: World, routers: Sequence[Router]) -> float:
    """Return how many streams were resumed on another engine. A killed router has lost its count."""
    name, ok = "router_stream_resumes_total", {"result": "ok"}
    if routers:
        return sum(router.metric(name, **ok) for router in routers)
    return world.router_metric(name, **ok)
