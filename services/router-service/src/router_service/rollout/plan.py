"""The types of a rollout's decision: plan, state, evidence and step. All are plain values that JSON can represent, so that
each decision can be logged and computed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from router_service.config.rollout_model import RolloutAction, RolloutReason, RolloutState
from router_service.config.rules_model import RuleSection

OK, ERROR, TRUNCATED, NOT_COUNTED = 0, 1, 2, 3
"""Ends of a request. Cancelled requests count in times, but not in the shares of errors and truncations."""

Measured = tuple[float | None, float | None, int]
"""One request: time to first token and mean gap between two tokens (milliseconds, None if unknown), and its end."""

Row = tuple[float | None, float | None, int, int]
"""A measured request with the number of its client in the evidence."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A rule's `rollout`. ``steps`` are rising percentages, ``objectives`` the limits by name."""

    rule: str
    old: str
    to: str
    steps: tuple[float, ...]
    objectives: Mapping[str, float]
    min_requests: int = 100
    confidence: float = 0.99
    window_seconds: float = 300.0
    warm_up_seconds: float = 0.0
    attempt: int = 1
    paused: bool = False

    @classmethod
    def of(cls, rule: RuleSection) -> "Plan":
        """Return the plan of a rule that has a rollout."""
        section = rule.rollout
        assert section is not None
        assert isinstance(rule.route_to, str)
        limits = {name: value for name, value in section.objectives.model_dump().items() if value is not None}
        return cls(
            rule.name,
            rule.route_to,
            section.to,
            tuple(section.steps),
            limits,
            section.min_requests,
            section.confidence,
            section.window_seconds,
            section.warm_up_seconds,
            section.attempt,
            section.paused,
        )

    def above(self, percent: float) -> float | None:
        """Return the next step up, None at the last one."""
        return next((step for step in self.steps if step > percent), None)

    def below(self, percent: float) -> float:
        """Return the next step down, 0 at the first one."""
        return next((step for step in reversed(self.steps) if step < percent), 0.0)


@dataclass(frozen=True, slots=True)
class State:
    """The current share of a rollout in percent, and the attempt that set it."""

    to: str
    percent: float
    state: RolloutState = "advancing"
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Arm:
    """The requests of one pool. ``requests`` is the number that counts in shares.

    The first ``uniform`` rows are a uniform sample of all requests (None: all rows are). All rows without those of the
    client ``flooding`` are a uniform sample of the other clients' requests.
    """

    requests: int = 0
    rows: Sequence[Row] = ()
    uniform: int | None = None
    flooding: int | None = None

    def sampled(self, without: int | None = None) -> Sequence[Row]:
        """Return a uniform sample of all requests, or of those of every client but one."""
        whole = self.rows if without is not None and without == self.flooding else self.rows[: self.uniform]
        return whole if without is None else [row for row in whole if row[3] != without]


@dataclass(frozen=True, slots=True)
class Pair:
    """The requests of both pools in the same minutes."""

    old: Arm = field(default_factory=Arm)
    new: Arm = field(default_factory=Arm)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The requests of the last window, and of all windows since the step began."""

    last: Pair = field(default_factory=Pair)
    step: Pair = field(default_factory=Pair)


@dataclass(frozen=True, slots=True)
class Finding:
    """One objective: the values of both pools (ms, or a share), and the interval of their difference.

    For times the interval is of ``new - limit * old`` and is compared with 0; for shares it is of ``new - old`` and is
    compared with ``limit``.
    """

    objective: str
    window: str
    old: float
    new: float
    low: float
    high: float
    limit: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Step:
    """A decision: its action and reason, the resulting share and state, and the findings that it is based on."""

    action: RolloutAction
    reason: RolloutReason
    percent: float
    state: RolloutState
    findings: tuple[Finding, ...] = ()


def as_json(value: Plan | State | Evidence | Step) -> dict[str, Any]:
    """Return a value as JSON-ready data."""
    return asdict(value)


def plan_from(data: Mapping[str, Any]) -> Plan:
    """Return the plan that :func:`as_json` wrote. Raises: TypeError, KeyError or ValueError for other data."""
    return Plan(**{**data, "steps": tuple(data["steps"]), "objectives": dict(data["objectives"])})


def state_from(data: Mapping[str, Any] | None) -> State | None:
    """Return the state that :func:`as_json` wrote. Raises: TypeError for other data."""
    return None if data is None else State(**data)


def row_from(data: Sequence[Any]) -> Row:
    """Return a row that was written down. Logs of older versions have rows without clients: those count as one."""
    ttft, gap, end, *client = data
    return ttft, gap, int(end), int(client[0]) if client else 0


def evidence_from(data: Mapping[str, Any]) -> Evidence:
    """Return the evidence that :func:`as_json` wrote. Raises: TypeError, KeyError or ValueError for other data."""

    def arm(found: Mapping[str, Any]) -> Arm:
        rows = [row_from(row) for row in found["rows"]]
        return Arm(int(found["requests"]), rows, found.get("uniform"), found.get("flooding"))

    def pair(found: Mapping[str, Any]) -> Pair:
        return Pair(arm(found["old"]), arm(found["new"]))

    return Evidence(pair(data["last"]), pair(data["step"]))
