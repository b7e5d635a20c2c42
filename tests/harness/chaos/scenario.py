"""One fault under load, from quiet to quiet: what every scenario of the suite has in common."""

import time
from collections.abc import Iterable

from harness.chaos.faults import Fault, Proof
from harness.chaos.load import Answer, Ending
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
    verdict: str = "none",
    allowed: Iterable[Ending] = (),
    rate: float = 20.0,
    sessions: int = 0,
    at_least_seconds: float = 6.0,
    well_seconds: float = 0.0,
    url: str | None = None,
) -> tuple[Row, list[Answer]]:
    """Put ``world`` under load, let ``fault`` happen, heal it; return the row and every answer.

    The fault lasts until the platform has given ``alerts`` and ``verdict``, and at least ``at_least_seconds``. Before it
    all is well under load for at least ``well_seconds``: alerts that compare with before need a before.

    Raises:
        AssertionError: something was lost, ended in a way not ``allowed``, was not noticed, or did not recover.
    """
    wanted = set(alerts)
    eventually(world.quiet, lambda: f"quiet before: {world.alerts()} {world.verdict()}", HEALED_SECONDS)
    resumed_before = _resumed(world)
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
    resumed = max(_resumed(world) - resumed_before, 0)
    row = row_of(
        name,
        proof.text,
        answers,
        resumed=int(resumed),
        detect=watch.first(),
        recover=recovered,
        verdict=_verdicts(watch),
        alerts=list(watch.alerts),
    )
    lost = [answer for answer in answers if answer.ending is Ending.LOST]
    assert not lost, f"{name}: {len(lost)} lost: {lost[:3]}"
    others = [a for a in answers if a.ending not in {Ending.GOOD, *allowed}]
    assert not others, f"{name}: {len(others)} ended in a way this fault does not excuse: {others[:3]}"
    return row, answers


def _let_happen(
    world: World, fault: Fault, watch: Watch, wanted: set[str], verdict: str, at_least_seconds: float
) -> Proof:
    def noticed() -> bool:
        return wanted <= set(watch.alerts) and (verdict == "none" or verdict in watch.verdicts)

    with fault(world) as proof:
        began = time.monotonic()
        eventually(noticed, lambda: f"alerts {wanted} and verdict {verdict}; seen {watch}", NOTICED_SECONDS)
        time.sleep(max(0.0, at_least_seconds - (time.monotonic() - began)))
    return proof


def _verdicts(watch: Watch) -> str:
    return ", ".join(sorted(set(watch.verdicts) - {"none"})) or "none"


def _resumed(world: World) -> float:
    return world.router_metric("router_stream_resumes_total", result="ok")
