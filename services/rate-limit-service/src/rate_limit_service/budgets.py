"""Limits, and the budgets that a request needs: its client's and its team's. Must not know how budgets are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Period = Literal["minute", "day", "month"]


@dataclass(frozen=True, slots=True)
class Limit:
    """Limits of one client, and those that its team shares; ``None`` means unlimited. ``team`` "": it has none."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    team: str = ""
    team_tokens_per_minute: int | None = None
    team_tokens_per_day: int | None = None
    team_tokens_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget: the name of its limit, its key in a store, and ``most`` per ``period``."""

    name: str
    key: str
    most: int
    period: Period

    @property
    def counts_tokens(self) -> bool:
        """Whether it counts tokens, not requests."""
        return "tokens" in self.name

    @property
    def of_team(self) -> bool:
        """Whether a team shares it."""
        return self.name.startswith("team_")


@dataclass(frozen=True, slots=True)
class Standing:
    """The result of a reservation.

    ``left`` is what remains of each budget by its name (may be negative after a settlement above the estimate).
    ``refused_by`` is the budget that needs the longest wait, None if the reservation was admitted. ``wait_seconds`` is the
    time until the same reservation can succeed.
    """

    refused_by: Budget | None
    wait_seconds: float
    left: Mapping[str, float] = field(default_factory=dict)

    @property
    def admitted(self) -> bool:
        """Whether the reservation was charged."""
        return self.refused_by is None

    @property
    def requests(self) -> float | None:
        """The client's remaining requests; None: not limited."""
        return self.left.get("requests_per_minute")

    @property
    def tokens(self) -> float | None:
        """The client's remaining tokens of the minute; None: not limited."""
        return self.left.get("tokens_per_minute")


def prefix_of(client: str, limit: Limit) -> str:
    """Return the beginning of the keys of a client. It has one hash tag for the client and its team, so that all of a
    call's keys are on one node of a Redis cluster; no client's name begins with a colon.
    """
    return f"edge:{{:{limit.team}}}:{client}:" if limit.team else f"edge:{{{client}}}:"


def budgets_of(client: str, limit: Limit) -> list[Budget]:
    """Return the budgets that a request of ``client`` needs; all of them must hold."""
    own = prefix_of(client, limit)
    team = f"edge:{{:{limit.team}}}::"
    wanted: tuple[tuple[str, str, int | None, Period], ...] = (
        ("requests_per_minute", own + "requests", limit.requests_per_minute, "minute"),
        ("tokens_per_minute", own + "tokens", limit.tokens_per_minute, "minute"),
        ("tokens_per_day", own + "day", limit.tokens_per_day, "day"),
        ("tokens_per_month", own + "month", limit.tokens_per_month, "month"),
        ("team_tokens_per_minute", team + "tokens", limit.team_tokens_per_minute, "minute"),
        ("team_tokens_per_day", team + "day", limit.team_tokens_per_day, "day"),
        ("team_tokens_per_month", team + "month", limit.team_tokens_per_month, "month"),
    )
    return [Budget(name, key, most, period) for name, key, most, period in wanted if most]
