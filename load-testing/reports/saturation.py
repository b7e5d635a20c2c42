"""What stopped a run: the platform's own verdict for its time. Asked only of runs that are valid, so that a generator's
own lateness is not laid at the platform's door."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from observability.prometheus_api import Series
from reports.asking import SETTLE_SECONDS, AskedPrometheus, Unanswered

STEP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """The verdict that held longest, and the share of the run in which it did.

    ``none``: no layer's. ``unknown``: nobody said. ``generator``: the run was not valid. ``why`` explains the last two.
    """

    verdict: str
    pool: str = ""
    share: float = 0.0
    why: str = ""

    @property
    def sentence(self) -> str:
        if self.why:
            return f"{self.verdict}: {self.why}"
        if self.verdict == "none":
            return f"none of the layers that the platform knows ({self.share:.0%} of the run without a bottleneck)"
        return f"{self.verdict} in pool {self.pool}, for {self.share:.0%} of the run"

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def limiting_resource(prometheus_url: str, start: float, end: float) -> Evidence:
    """Ask the recording rules which layer was the bottleneck between two epoch times, once they can know it."""
    if not prometheus_url:
        return Evidence("unknown", why="not a run on the local stack, and no --prometheus")
    prometheus = AskedPrometheus(prometheus_url)
    time.sleep(max(end + SETTLE_SECONDS - time.time(), 0.0))
    try:
        found = prometheus.range("pool:bottleneck:verdict == 1", start, end, STEP_SECONDS)
    except Unanswered as error:
        return Evidence("unknown", why=str(error))
    return longest(found, max(end - start, STEP_SECONDS))


def longest(found: Sequence[Series], seconds: float) -> Evidence:
    """Return the verdict that held longest in these ``seconds``; ``none`` only where no other one held at all."""
    if not found:
        return Evidence("unknown", why="Prometheus holds no verdict for this time")
    held = [
        Evidence(
            s.labels.get("verdict", "none"),
            s.labels.get("pool", ""),
            min(len(s.points) * STEP_SECONDS / seconds, 1.0),
        )
        for s in found
    ]
    bottlenecks = [evidence for evidence in held if evidence.verdict != "none"]
    return max(bottlenecks or held, key=lambda evidence: evidence.share)
