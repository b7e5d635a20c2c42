"""The rules file's shape: every key, its type, its bounds, its default and what it means."""

from typing import Any, Literal

from pydantic import Field

from router_service.config.model import PolicyName
from router_service.config.rollout_model import RolloutSection
from router_service.config.section import Name, Section


class RuleTimeouts(Section):
    """Timeouts of a rule; omitted ones have the value of the configuration."""

    connect_seconds: float | None = Field(None, gt=0, description="to connect to a backend")
    first_token_seconds: float | None = Field(None, gt=0, description="until the first body byte of a stream")
    idle_seconds: float | None = Field(None, gt=0, description="between two events of a stream")
    total_seconds: float | None = Field(None, gt=0, description="for the whole request")


class TargetSection(Section):
    """One pool of a weighted rule."""

    pool: str = Field(description="name of the pool")
    weight: float = Field(1.0, gt=0, description="its share, relative to the others")


class Refuse(Section):
    """The response to requests that a rule refuses."""

    status: Literal[403, 404, 429] = Field(403, description="status of the response")
    message: str = Field(min_length=1, max_length=500, description="error message for the client")


class ShadowSection(Section):
    """Copies of a rule's requests for another pool. No client gets their answers."""

    pool: str = Field(
        description="pool that gets the copies: not one of the rule's own, and not one that itself has a shadow"
    )
    percent: float = Field(
        ge=0, le=100, description="share of the rule's requests that are copied, chosen by the request id"
    )


EngineControl = Literal["priority", "kv_transfer_params", "ec_transfer_params", "data_parallel_rank"]


class RuleSection(Section):
    """One rule."""

    name: Name = Field(description="name in records, headers and metrics")
    when: dict[str, Any] = Field(description="conditions that must all hold; all, any and not combine them")
    route_to: str | list[TargetSection] | None = Field(
        None, description="a pool, or weighted pools; exactly one of route_to and refuse"
    )
    refuse: Refuse | None = Field(None, description="refuse these requests with a status and a sentence")
    split_by: Literal["session_id", "client_id", "request_id"] = Field(
        "session_id", description="key by which a weighted split is stable"
    )
    policy: PolicyName | None = Field(None, description="overrides the pool's policy")
    timeouts: RuleTimeouts | None = Field(None, description="overrides single timeouts")
    resume: bool = Field(False, description="continue a broken stream on another backend")
    request_class: Name | None = Field(
        None, description="class of these requests, one of `classes` in the configuration"
    )
    rollout: RolloutSection | None = Field(
        None, description="raises the share of a new pool in steps, guarded by objectives"
    )
    engine_fields: dict[EngineControl, Any] = Field(
        {}, description="engine controls that are set in the request; clients cannot set them"
    )
    shadow: ShadowSection | None = Field(
        None, description="copy requests to another pool and drop the answers (docs/shadow-traffic.md)"
    )


class Expectation(Section):
    """The expected decision of a rule test; omitted fields are not compared."""

    pool: str | None = Field(None, description="pool of the decision")
    rule: str | None = Field(None, description="name of the rule, or default")
    reason: str | None = Field(
        None, description="reason of the decision; refused_by_rule or model_not_allowed for a refusal"
    )


class RuleTest(Section):
    """One test of the rules, run by `router-service check`."""

    name: str = Field(min_length=1, description="a sentence")
    request: dict[str, Any] = Field(description="a request body; model defaults to the default pool's first")
    path: str = Field("/v1/chat/completions", description="path of the request")
    headers: dict[str, str] = Field({}, description="headers of the request")
    client_id: str = Field("", description="client id of the request")
    expect: Expectation = Field(description="expected decision")


class RulesFile(Section):
    """The rules file."""

    api_version: Literal["v1"] = Field(
        "v1", description="version of this file's keys; every release names the versions that it reads"
    )
    rules: list[RuleSection] = Field([], description="first match wins")
    tests: list[RuleTest] = Field([], description="run by `router-service check`")
