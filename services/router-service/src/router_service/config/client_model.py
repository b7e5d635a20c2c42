"""The schema of the sections about clients, their requests' classes, and requests that wait."""

from pydantic import Field

from router_service.config.section import Section
from router_service.routing.features import ServiceTier


class PrivacySection(Section):
    """What clients can learn about each other."""

    share_prefixes_between: list[str] = Field(
        [],
        description="clients (ids or globs) that share prefix-cache entries; each of them can find out by timing "
        "whether another one sent a prompt. By default each client has separate entries",
    )
    show_engine_metrics_to: list[str] = Field(
        [], description="clients (ids or globs) whose answers keep the engine's `metrics`"
    )


class Clients(Section):
    """The models that each client may use."""

    models: dict[str, list[str]] = Field(
        {},
        description="client ids or globs, each with the models it may use (names, aliases or globs). A client's own id "
        "decides before a glob, the first matching glob before later ones; a client that nothing matches may use "
        "every model. An alias is allowed by its own name or if its model is allowed",
    )
    hide_forbidden: bool = Field(
        False, description="answer 404 model_not_found for a model that the client may not use, not 403"
    )


class ClassSection(Section):
    """One class of requests. A rule's request_class decides before clients, and clients before service_tiers."""

    share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="part of each pool's slots and queue that this class keeps, at least one of each; 0 keeps none. All "
        "shares together are at most 1",
    )
    clients: list[str] = Field([], description="clients (ids or globs) whose requests have this class")
    service_tiers: list[ServiceTier] = Field(
        [],
        description="values of `service_tier` in a request that select this class; every client may send every value",
    )
    priority: int | None = Field(
        None,
        description="`priority` in the engine's request; the engines must run with `--scheduling-policy priority`. Lower "
        "values are scheduled first",
    )


class WhenNoneReady(Section):
    """Requests for a pool without a ready backend wait for an engine to start, instead of 503."""

    hold_seconds: float = Field(
        gt=0,
        description="longest wait, for the start and for a free slot; with first_token_seconds it must fit into "
        "total_seconds and edge_silence_seconds",
    )
    slots: int = Field(64, ge=1, description="requests that may wait; further ones are refused with 503")
    comment_seconds: float = Field(
        0.0,
        ge=0,
        description="interval of SSE comments to streaming clients that wait, so that proxies keep the connection; the "
        "first one sends status 200, and a later failure is an error event. 0: none",
    )
