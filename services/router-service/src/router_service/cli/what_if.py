"""`router-service what-if`: the times to the first token of a recorded load on another number of engines."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from router_service.config.load import RouterConfig
from router_service.forecast.engine_fit import EngineTimes, fit
from router_service.forecast.simulation import Played, Setup, play
from router_service.forecast.workload import Workload, workload_of

DESCRIBES = 0.15
"""If the simulated recording differs from the records by more than this share, do not trust the other results."""


@dataclass(frozen=True)
class Question:
    """``engines`` None: as many as were recorded. ``slots`` None: as many as the router sends to an engine."""

    pool: str
    engines: int | None
    slots: int | None
    objective_seconds: float
    rate: float


@dataclass(frozen=True)
class Times:
    """Seconds until the first token, and the share of requests over the objective."""

    p50: float
    p95: float
    over: float

    @classmethod
    def of(cls, seconds: Iterable[float], objective: float) -> "Times | None":
        """Return the quantiles of ``seconds``; None if it is empty."""
        ordered = sorted(seconds)
        if not ordered:
            return None
        last = len(ordered) - 1
        over = sum(second > objective for second in ordered) / len(ordered)
        return cls(ordered[round(last * 0.5)], ordered[round(last * 0.95)], over)


@dataclass(frozen=True)
class Forecast:
    """The answer, with what it is based on."""

    question: Question
    workload: Workload
    times: EngineTimes
    recorded: Times
    again: Times
    asked: Times | None
    played: Played
    engines: int

    @property
    def errors(self) -> dict[str, float]:
        """The simulation of the recorded load against the records: shares of p50 and p95."""
        return {
            "p50": self.again.p50 / self.recorded.p50 - 1.0,
            "p95": self.again.p95 / self.recorded.p95 - 1.0,
        }


class NoLoad(Exception):
    """The records have no load to play; the message says why and what to do."""


def forecast(
    records: Iterable[Mapping[str, Any] | None], config: RouterConfig, question: Question
) -> Forecast:
    """Fit the engine to the records, play them as recorded, and play them as asked.

    Raises:
        NoLoad: no request of the pool, or none with a first token.
        CannotFit: the records do not determine the engine's times.
    """
    workload = workload_of(records, question.pool)
    seconds = [request.first_token for request in workload.requests if request.first_token is not None]
    recorded = Times.of(seconds, question.objective_seconds)
    if recorded is None:
        raise NoLoad(
            f"no streamed request of pool {question.pool} was answered ({workload.other_pools} records of other pools, "
            f"{workload.left_out} without tokens): record a load of this pool, or name another pool with --pool"
        )
    times = fit(workload)
    limits = config.values.limits
    limit = max(request.limit for request in workload.requests)
    slots = question.slots or limit

    def played(engines: int, rate: float) -> Played:
        setup = Setup(question.pool, engines, slots, limit, limits.queue_size, limits.queue_seconds, rate)
        return play(workload, times, config.policy, setup)

    again = Times.of(played(workload.backends, 1.0).first_tokens, question.objective_seconds)
    if again is None:
        raise NoLoad(
            f"the configuration sends none of these requests to pool {question.pool}: use the configuration that they "
            "were recorded with"
        )
    engines = question.engines or workload.backends
    result = played(engines, question.rate)
    asked = Times.of(result.first_tokens, question.objective_seconds)
    return Forecast(question, workload, times, recorded, again, asked, result, engines)


def as_text(found: Forecast) -> str:
    """Return the answer as a table, with a warning if the simulation does not describe the recorded load."""
    workload, question, times = found.workload, found.question, found.times
    measured = sum(request.first_token is not None for request in workload.requests)
    load = f" at {question.rate:g} times the rate" if question.rate != 1.0 else ""
    rows = [
        ("recorded", found.recorded, ""),
        (
            "simulated as recorded",
            found.again,
            f"error p50 {found.errors['p50']:+.0%}, p95 {found.errors['p95']:+.0%}",
        ),
        (f"{found.engines} engines{load}", found.asked, ""),
    ]
    lines = [
        f"{len(workload.requests)} requests of pool {question.pool} in {workload.seconds:.0f} s on "
        f"{workload.backends} engines, {measured} with a first token; {workload.left_out} records without tokens left out",
        f"engine, fitted: {times.step * 1e3:.2f} ms a step, {times.per_request * 1e3:.3f} ms a running request, "
        f"{times.per_token * 1e3:.3f} ms a prompt token that the cache does not have",
        f"{'time to first token':26}{'p50':>10}{'p95':>10}{f'over {question.objective_seconds:g} s':>12}",
    ]
    for name, row, note in rows:
        if row is None:
            lines.append(f"{name:26}no request was answered")
        else:
            text = f"{name:26}{row.p50:>8.3f} s{row.p95:>8.3f} s{row.over:>12.1%}"
            lines.append(f"{text}  {note}".rstrip())
    played = found.played
    lines.append(
        f"refused {played.refused}, waited in the router's queue {played.waited}, sent to other pools {played.elsewhere}"
    )
    if any(abs(error) > DESCRIBES for error in found.errors.values()):
        lines.append(
            f"warning: the simulation of the recorded load is off by more than {DESCRIBES:.0%}: it does not describe "
            "this engine or load"
        )
    return "\n".join(lines)


def as_json(found: Forecast) -> str:
    """Return the answer as JSON."""

    def shown(times: Times | None) -> dict[str, float] | None:
        return None if times is None else {"p50": times.p50, "p95": times.p95, "over": times.over}

    return json.dumps(
        {
            "engine": vars(found.times),
            "recorded": {**(shown(found.recorded) or {}), "engines": found.workload.backends},
            "simulated_as_recorded": {**(shown(found.again) or {}), "errors": found.errors},
            "asked": {**(shown(found.asked) or {}), "engines": found.engines, "rate": found.question.rate},
            "refused": found.played.refused,
            "waited": found.played.waited,
            "elsewhere": found.played.elsewhere,
        },
        indent=2,
    )
