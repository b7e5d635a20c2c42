"""One fault under load, from quiet to quiet: what every scenario of the suite has in common."""

import time
from collections.abc import Iterable, Sequence

from harness.chaos.faults import Fault, Proof
from harness.chaos.load import Answer, Ending
from harness.chaos.replicas import Router
from harness.chaos.table import Row, row_of
from harness.chaos.world import Watch, World, eventually

NOTICED_SECONDS = 90.0
HEALED_SECONDS = 150.0


def endure(
    world: World,
    name: str,
    fault: Fault,
    *,
    alerts: Iterable[str] = (),
    verdict: str | None = None,
    allowed: Iterable[Ending] = (),
    rate: float = 20.0,
    sessions: int = 0,
    at_least_seconds: float = 6.0,
    well_seconds: float = 0.0,
    url: str | None = None,
    routers: Sequence[Router] = (),
) -> tuple[Row, list[Answer]]:
    """Put ``world`` under load, let ``fault`` happen, heal it; return the row and every answer.

    The fault lasts until the platform has given ``alerts`` and ``verdict``, and at least ``at_least_seconds``. Before it
    all is well under load for at least ``well_seconds``: alerts that compare with before need a before. A ``verdict``
    must be the only one ("none": nobody is blamed); None leaves it open. ``routers`` are those that the load goes
    through, where it is not the stack's own.

    Raises:
        AssertionError: something was lost, ended in a way not ``allowed``, was not noticed, or did not recover.
    """
    wanted = set(alerts)
    eventually(world.quiet, lambda: f"quiet before: {world.alerts()} {world.verdict()}", HEALED_SECONDS)
    resumed_before = _resumed(world, routers)
    with world.under_load(rate, sessions=sessions, url=url) as load:
        load.settle()
        eventually(
            world.quiet, lambda: f"quiet under load: {world.alerts()} {world.verdict()}", HEALED_SECONDS
        )
        time.sleep(well_seconds)
        with world.watching() as watch:
            proof = _let_happen(world, fault, watch, wanted, verdict, at_least_seconds)
            healed = time.time()
            eventually(world.ready, f"ready after {name}", HEALED_SECONDS)
            again = time.time()
            eventually(lambda: load.good_since(again) >= 10, f"good answers after {name}", 60)
            recovered = time.time() - healed
        answers = load.finish()
        answers += proof.answers
    resumed = _resumed(world, routers) - resumed_before
    row = row_of(
        name,
        proof.text,
        answers,
        resumed=max(0, int(resumed)),
        detect=watch.first(wanted, verdict),
        recover=recovered,
        verdict=", ".join(sorted(watch.blamed())) or "none",
        alerts=list(watch.alerts),
    )
    lost = [answer for answer in answers if answer.ending is Ending.LOST]
    assert not lost, f"{name}: {len(lost)} lost: {lost[:3]}"
    others = [a for a in answers if a.ending not in {Ending.GOOD, *allowed}]
    assert not others, f"{name}: {len(others)} ended in a way this fault does not excuse: {others[:3]}"
    if verdict is not None:
        assert watch.blamed() <= {verdict}, f"{name}: {watch.blamed()} was blamed instead of {verdict}"
    return row, answers


def _let_happen(
    world: World, fault: Fault, watch: Watch, wanted: set[str], verdict: str | None, at_least_seconds: float
) -> Proof:
    def noticed() -> bool:
        return wanted <= set(watch.alerts) and (verdict in (None, "none") or verdict in watch.verdicts)

    with fault(world) as proof:
        began = time.monotonic()
        eventually(noticed, lambda: f"alerts {wanted} and verdict {verdict}; seen {watch}", NOTICED_SECONDS)
        time.sleep(max(0.0, at_least_seconds - (time.monotonic() - began)))
    return proof


def _resumed(world: World, routers: Sequence[Router]) -> float:
    """Streams continued on another engine. A router that was killed has forgotten its own."""
    name, ok = "router_stream_resumes_total", {"result": "ok"}
    if routers:
        return sum(router.metric(name, **ok) for router in routers)
    return world.router_metric(name, **ok)
