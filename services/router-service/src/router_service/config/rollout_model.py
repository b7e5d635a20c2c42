"""The shape of a rule's `rollout` and of the weights file: every key, its type, its bounds and its default."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from router_service.config.section import Name, Section


class Objectives(Section):
    """Limits on how much worse than the old pool the new pool may be in the same minutes. At least one."""

    ttft_p50: float | None = Field(
        None, ge=1, le=100, description="median time to first token of the new pool over that of the old one"
    )
    ttft_p95: float | None = Field(None, ge=1, le=100, description="the same of the 95th percentile")
    gap_p50: float | None = Field(
        None,
        ge=1,
        le=100,
        description="median gap between two tokens of the new pool over that of the old one",
    )
    gap_p95: float | None = Field(None, ge=1, le=100, description="the same of the 95th percentile")
    errors: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of failed requests of the new pool minus that of the old one; requests that a retry or a "
        "fallback saved count as failed",
    )
    truncations: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of cut-off streams of the new pool minus that of the old one; resumed streams count as cut off",
    )


class RolloutSection(Section):
    """Raises the share of a second pool in steps. The rule's `route_to` is the old pool."""

    to: str = Field(description="the new pool")
    steps: list[Annotated[float, Field(gt=0, le=100)]] = Field(
        [5, 25, 50, 100], min_length=1, max_length=20, description="percent of the rule's requests, rising"
    )
    window_seconds: float = Field(
        300, ge=1, le=86400, description="the pools are compared, and a step is decided, once in this time"
    )
    warm_up_seconds: float = Field(
        0, ge=0, le=3600, description="requests that end within this time after a step do not count"
    )
    min_requests: int = Field(
        100, ge=20, le=100_000, description="a step up needs this many requests of each pool"
    )
    objectives: Objectives = Field(
        default_factory=Objectives, description="limits that the new pool must keep; at least one"
    )
    confidence: float = Field(
        0.99, ge=0.8, le=0.999, description="of the intervals by which a limit counts as broken or kept"
    )
    attempt: int = Field(1, ge=1, description="raise it to continue after a step back")
    paused: bool = Field(False, description="keep the current share; a broken limit still goes back")


def _time(text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError('write a time such as "2026-01-31T12:00:00+00:00"') from error
    if at.tzinfo is None:
        raise ValueError("has no time zone; append +00:00 for UTC")
    return text


Time = Annotated[str, AfterValidator(_time)]
RolloutState = Literal["advancing", "went_back", "done"]
RolloutAction = Literal["start", "advance", "hold", "back", "finish"]
RolloutReason = Literal[
    "started",
    "new_attempt",
    "kept",
    "last_step",
    "paused",
    "too_few_requests",
    "not_yet_shown",
    "waits_for_attempt",
    "watching",
    "ttft_p50",
    "ttft_p95",
    "gap_p50",
    "gap_p95",
    "errors",
    "truncations",
]


class Decided(Section):
    """The controller's last decision, for operators and metrics; routers do not act on it."""

    at: Time = Field(description="when")
    action: RolloutAction = Field(description="what it did")
    reason: RolloutReason = Field(description="why; the name of an objective if that was broken")


class ShareSection(Section):
    """The share of one rule's new pool."""

    to: str = Field(description="the new pool; of no effect unless it is the one of the rule's rollout")
    percent: float = Field(ge=0, le=100, description="percent of the rule's requests that go to it")
    state: RolloutState = Field("advancing", description="state of the rollout")
    since: Time | None = Field(None, description="when this step, or this attempt, began")
    attempt: int = Field(1, ge=1, description="the rollout's `attempt` that this state belongs to")
    decided: Decided | None = Field(None, description="the controller's last decision")


class WeightsFile(Section):
    """The weights file: written by `router-service rollout run`, read by every router."""

    api_version: Literal["v1"] = Field(
        "v1", description="version of this file's keys; every release names the versions that it reads"
    )
    rollouts: dict[Name, ShareSection] = Field({}, description="the share of each rollout, by rule")
