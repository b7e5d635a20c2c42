"""The limit of a run: the platform's verdict for the time of the run.

Used for valid runs only, so that a late generator is not reported as a limit of the platform.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from load_testing.reports.asking import SETTLE_SECONDS, AskedPrometheus, Unanswered
from platform_contracts.prometheus import Series

STEP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """The longest verdict, and its share of the run.

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
    """Return the bottleneck between two epoch times from the recording rules; wait until they cover that time."""
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
    """Return the longest verdict in these ``seconds``; ``none`` only if there is no other verdict."""
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
