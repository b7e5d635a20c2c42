"""The limits of clients and teams in an edge settings file."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CLIENT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$"
ClientName = Annotated[str, Field(pattern=CLIENT_NAME)]


class Strict(BaseModel):
    """Rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenBudgets(Strict):
    """Token budgets, shared by all edge replicas. They need ``budgets``."""

    tokens_per_minute: int | None = Field(None, ge=1, description="over all edge replicas; needs `budgets`")
    tokens_per_day: int | None = Field(
        None, ge=1, description="over all edge replicas, from 00:00 UTC; needs `budgets`"
    )
    tokens_per_month: int | None = Field(
        None, ge=1, description="over all edge replicas, from the first day of the month UTC; needs `budgets`"
    )

    def shared(self) -> list[str]:
        """Return the names of the limits that need the rate limit service."""
        return [name for name, value in self if "_per_" in name and name != "requests_per_second" and value]


class ClientLimits(TokenBudgets):
    """Limits of one client.

    ``requests_per_second`` and ``burst`` are a token bucket in each edge replica. The limits per minute, day and month
    are shared by all replicas and need ``budgets``.
    """

    requests_per_second: float = Field(
        20.0, gt=0, le=1_000_000, description="rate of one client in each edge replica"
    )
    burst: int = Field(40, ge=1, le=4_000_000, description="requests that may arrive at once")
    requests_per_minute: int | None = Field(None, ge=1, description="over all edge replicas; needs `budgets`")


class TeamLimits(TokenBudgets):
    """The clients of a team, and the budgets that they share. A client's own limits hold too."""

    clients: list[ClientName] = Field(min_length=1, description="its clients; a client has at most one team")

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.shared():
            raise ValueError("has no budget; give tokens_per_minute, tokens_per_day or tokens_per_month")
        return self


class Limits(Strict):
    """Limits of clients by name; ``default`` applies to each other client separately."""

    default: ClientLimits = Field(ClientLimits(), description="each client without limits of its own")
    clients: dict[ClientName, ClientLimits] = Field({}, description="limits of clients by name")
    teams: dict[ClientName, TeamLimits] = Field({}, description="budgets that several clients share, by team")
    max_unnamed_clients: int = Field(
        10_000, ge=1, description="number of clients with a bucket at the same time"
    )

    @model_validator(mode="after")
    def _one_team_each(self) -> Self:
        teams: dict[str, str] = {}
        for name, team in self.teams.items():
            for client in team.clients:
                if teams.setdefault(client, name) != name:
                    raise ValueError(
                        f'teams.{name}.clients: "{client}" is in team {teams[client]} already; remove it from one of them'
                    )
        return self
