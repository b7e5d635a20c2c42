"""The open-loop schedule of requests, fixed before the first response.

Responses never influence arrivals, so a slow server gets the same load (no coordinated omission).
Must not use a clock: it yields offsets in seconds from the start.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Process = Literal["poisson", "constant"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of time in which the rate changes linearly from ``start_rate`` to ``end_rate``.

    Rates are requests per second, the duration is in seconds.
    """

    seconds: float
    start_rate: float
    end_rate: float

    @property
    def expected(self) -> float:
        """Return the expected number of requests in this segment."""
        return self.seconds * (self.start_rate + self.end_rate) / 2

    def offset_of(self, count: float) -> float:
        """Return the time of the ``count``-th request of this segment (the inverse of the integral)."""
        slope = (self.end_rate - self.start_rate) / self.seconds
        if abs(slope) < 1e-12:
            return count / self.start_rate
        root = math.sqrt(max(self.start_rate**2 + 2 * slope * count, 0.0))
        return (root - self.start_rate) / slope


def schedule(segments: Sequence[Segment], process: Process, seed: int) -> Iterator[float]:
    """Yield the send time of each request as seconds from the start, in order.

    ``constant`` sends one request per unit of expected count; ``poisson`` draws exponential gaps on
    the expected count, which gives the inhomogeneous Poisson process of that rate.
    """
    draws = random.Random(seed)
    passed = 0.0
    began = 0.0
    count = 0.0
    pending = iter(segments)
    segment = next(pending, None)
    while segment is not None:
        count += 1.0 if process == "constant" else draws.expovariate(1.0)
        while count - passed > segment.expected:
            passed += segment.expected
            began += segment.seconds
            segment = next(pending, None)
            if segment is None:
                return
        yield began + segment.offset_of(count - passed)
