"""Fits the duration of an engine's steps to a recorded load.

In a step every running request gets one token, and waiting requests start with their prefill. A step takes a base time, a
time for each running request, and a time for each fresh prompt token of the requests that start in it.
"""

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from router_service.forecast.workload import Request, Workload

_SAME_STEP_SECONDS = 0.002
"""Requests whose prefill began within this time of each other started in the same step."""

_ROUNDS = 6
"""Rounds of the fit. Each round computes the running requests of a step from the times of the previous round."""

Row = tuple[float, float, float, float]

MIN_REQUESTS = 20
"""Fewer measured requests do not determine the three times."""


class CannotFit(Exception):
    """The records do not determine the engine's times; the message says why and what to do."""


@dataclass(frozen=True)
class EngineTimes:
    """Seconds of a step, of each running request in it, and of each fresh prompt token."""

    step: float
    per_request: float
    per_token: float


@dataclass(slots=True)
class _Span:
    """The time that a request spent in its engine; ``scheduled`` is the start of its prefill."""

    request: Request
    scheduled: float
    first: float
    end: float


def fit(workload: Workload) -> EngineTimes:
    """Return the times that describe the recorded requests best (least squares of relative errors, none below zero).

    Raises:
        CannotFit: too few requests with the engine's own figures.
    """
    by_backend: dict[str, list[_Span]] = defaultdict(list)
    for request in workload.requests:
        span = _span(request)
        if span is not None:
            by_backend[request.backend].append(span)
    if sum(map(len, by_backend.values())) < MIN_REQUESTS:
        raise CannotFit(
            f"only {sum(map(len, by_backend.values()))} streamed requests with the engine's own figures; at least "
            f"{MIN_REQUESTS} are needed: record a longer load, with engines that run --enable-per-request-metrics"
        )
    times = EngineTimes(1.0, 0.0, 0.0)
    for _ in range(_ROUNDS):
        rows: list[Row] = []
        for spans in by_backend.values():
            rows += _rows(spans, times)
        times = EngineTimes(*_solve(rows))
    return times


def _span(request: Request) -> _Span | None:
    first = request.first_at
    if first is None or request.prefill is None or request.decode is None:
        return None
    return _Span(request, first - request.prefill, first, first + request.decode)


def _rows(spans: list[_Span], times: EngineTimes) -> list[Row]:
    """Return, for each prefill and each decoding of one engine: steps, running requests times steps, fresh tokens, and the
    seconds that they took. Each row is divided by its seconds, so that short and long requests count alike.
    """
    running = _Running(spans, times)
    starts = sorted((span.scheduled, span.request.fresh_tokens) for span in spans)
    began = [at for at, _ in starts]
    sums = [0]
    for _, tokens in starts:
        sums.append(sums[-1] + tokens)

    def fresh(begin: float, end: float) -> int:
        """Return the fresh tokens of the requests that started in a time."""
        return sums[bisect_right(began, end)] - sums[bisect_right(began, begin)]

    rows = []
    for span in spans:
        prefill = span.first - span.scheduled
        together = fresh(span.scheduled - _SAME_STEP_SECONDS, span.scheduled + _SAME_STEP_SECONDS)
        if prefill > 0:
            count = running.mean(span.scheduled, span.first)
            rows.append((1 / prefill, count / prefill, together / prefill, 1.0))
        decode, steps = span.end - span.first, span.request.tokens - 1
        if decode > 0 and steps > 0:
            count = running.mean(span.first, span.end)
            others = fresh(span.first - _SAME_STEP_SECONDS, span.end - _SAME_STEP_SECONDS)
            rows.append((steps / decode, steps * count / decode, others / decode, 1.0))
    return rows


class _Running:
    """The number of running requests of one engine over time, by steps: with more requests a step takes longer, so that a
    second has fewer steps.
    """

    def __init__(self, spans: list[_Span], times: EngineTimes) -> None:
        changes = sorted([(span.scheduled, 1) for span in spans] + [(span.end, -1) for span in spans])
        self._at = [at for at, _ in changes]
        self._counts = [0]
        self._rates = [0.0]  # steps per second
        self._steps = [0.0]
        self._areas = [0.0]
        for place, (at, change) in enumerate(changes):
            if place:
                steps = self._rates[-1] * (at - self._at[place - 1])
                self._steps.append(self._steps[-1] + steps)
                self._areas.append(self._areas[-1] + self._counts[-1] * steps)
            self._counts.append(self._counts[-1] + change)
            seconds = times.step + times.per_request * self._counts[-1]
            self._rates.append(1.0 / max(seconds, 1e-6))

    def mean(self, begin: float, end: float) -> float:
        """Return the mean number of running requests in the steps between two times."""
        steps_before, area_before = self._until(begin)
        steps, area = self._until(end)
        return (area - area_before) / (steps - steps_before) if steps > steps_before else 1.0

    def _until(self, at: float) -> tuple[float, float]:
        """Return the steps, and the running requests summed over them, until a time."""
        place = bisect_right(self._at, at) - 1
        if place < 0:
            return 0.0, 0.0
        steps = self._rates[place + 1] * (at - self._at[place])
        return self._steps[place] + steps, self._areas[place] + self._counts[place + 1] * steps


def _solve(rows: list[Row]) -> list[float]:
    """Return the least-squares solution with no value below zero."""
    used = [0, 1, 2]
    while used:
        matrix = [[sum(row[a] * row[b] for row in rows) for b in used] for a in used]
        right = [sum(row[a] * row[3] for row in rows) for a in used]
        found = _eliminate(matrix, right)
        if min(found) >= 0:
            values = [0.0, 0.0, 0.0]
            for place, value in zip(used, found, strict=True):
                values[place] = value
            return values
        used.pop(found.index(min(found)))
    return [0.0, 0.0, 0.0]


def _eliminate(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a small system of equations. A variable that no row determines is 0."""
    size = len(right)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(matrix[row][column]))
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        right[column], right[pivot] = right[pivot], right[column]
        if abs(matrix[column][column]) < 1e-12:
            matrix[column][column] = 1.0
            right[column] = 0.0
            continue
        for row in range(size):
            if row != column:
                factor = matrix[row][column] / matrix[column][column]
                right[row] -= factor * right[column]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[column], strict=True)]
    return [right[row] / matrix[row][row] for row in range(size)]
