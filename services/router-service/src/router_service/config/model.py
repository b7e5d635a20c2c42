"""The configuration's shape: every key, its type, its bounds, its default and what it means.

`docs/configuration.md` is generated from these descriptions.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from router_service.routing.policies import POLICIES

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


def _reachable(url: str) -> str:
    """Refuse what no connection could be opened to, where the mistake can still be shown with its place."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{error}; write http://HOST:PORT with a port up to 65535") from error
    if not host or "@" in parts.netloc or parts.port == 0:
        raise ValueError("must be http(s)://HOST:PORT, without a user or a password")
    return url


HttpUrl = Annotated[
    str, StringConstraints(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$"), AfterValidator(_reachable)
]
ServerError = Annotated[int, Field(ge=500, le=599)]
if TYPE_CHECKING:
    PolicyName = str
else:
    PolicyName = Literal[*POLICIES]


class Section(BaseModel):
    """A mapping that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Server(Section):
    """Where the router listens and how it ends."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 or :: in a pod")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    settle_seconds: float = Field(
        3.0,
        ge=0,
        description="after SIGTERM: not ready, but still accepting for this long, until load balancers notice; longer "
        "than they keep idle connections (the edge: 2 s)",
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="larger request bodies are refused with 413"
    )


class Backend(Section):
    """One engine."""

    url: HttpUrl = Field(description="address of the engine")
    health_url: HttpUrl | None = Field(None, description="what is asked for health (default: url + /health)")


class EndpointSlices(Section):
    """A Kubernetes Service whose EndpointSlices are watched."""

    service: Name = Field(description="name of the Service")
    namespace: Name = Field(description="its namespace")


class Discover(Section):
    """Backends that come and go. Exactly one of dns and endpoint_slices."""

    dns: str | None = Field(None, min_length=1, description="name of a headless Service, re-resolved")
    endpoint_slices: EndpointSlices | None = Field(None, description="EndpointSlices to watch")
    port: int = Field(8000, ge=1, le=65535, description="port of the engine")
    health_port: int | None = Field(None, ge=1, le=65535, description="port of the agent (default: port)")
    health_path: str = Field("/health", pattern="^/", description="path asked for health")
    interval_seconds: float = Field(5.0, gt=0, description="how often a DNS name is resolved again")


class PoolSection(Section):
    """A set of interchangeable backends. Exactly one of backends and discover."""

    policy: PolicyName = Field("least_loaded", description="how a backend is chosen")
    models: list[str] = Field(min_length=1, description='names this pool answers to; "*" for any')
    aliases: dict[str, str] = Field({}, description="further names, each for one of models")
    backends: dict[Name, Backend] | None = Field(None, description="the engines, by name")
    discover: Discover | None = Field(None, description="where to find the engines")


class Routing(Section):
    """Which pool takes a request that no rule sends elsewhere."""

    default_pool: str = Field(description="the pool of requests that no rule matches")
    fallback: dict[str, list[str]] = Field({}, description="pools asked when nothing in a pool is ready")
    rules_file: str | None = Field(None, description="file with the rules, relative to this one")


class Affinity(Section):
    """Sessions that stay on their backend."""

    enabled: bool = Field(True, description="whether the header is looked at")
    header: str = Field("x-session-id", pattern="^[a-z0-9-]+$", description="header with the session's id")
    ttl_seconds: float = Field(1800.0, gt=0, description="how long a session without requests stays pinned")


class Redis(Section):
    """Shared state. Left out: state is kept in memory and each replica is on its own."""

    url: str = Field(
        pattern="^(redis|rediss|unix)://[^@]*$", description="address; a password belongs in password_file"
    )
    password_file: str | None = Field(None, description="file with the password")
    timeout_seconds: float = Field(0.05, gt=0, le=1, description="most that a request ever waits for Redis")


class TimeoutsSection(Section):
    """Four timeouts. The first two apply to every attempt, total to the whole request."""

    connect_seconds: float = Field(1.0, gt=0, description="to connect to a backend")
    first_token_seconds: float = Field(60.0, gt=0, description="until the first body byte of a stream")
    idle_seconds: float = Field(
        30.0, gt=0, description="between two events of a stream; comments do not count"
    )
    total_seconds: float = Field(600.0, gt=0, description="for the whole request, all attempts together")


class RuleTimeouts(Section):
    """Timeouts of a rule; what is left out stays as in the configuration."""

    connect_seconds: float | None = Field(None, gt=0, description="to connect to a backend")
    first_token_seconds: float | None = Field(None, gt=0, description="until the first body byte of a stream")
    idle_seconds: float | None = Field(None, gt=0, description="between two events of a stream")
    total_seconds: float | None = Field(None, gt=0, description="for the whole request")


class Retries(Section):
    """When an attempt that failed before the first body byte is repeated on another backend."""

    max_attempts: int = Field(3, ge=1, le=10, description="attempts of one request, the first one included")
    budget_ratio: float = Field(
        0.2,
        ge=0,
        le=1,
        description="retries under way, as a share of active requests; not those of lost connections",
    )
    budget_min: int = Field(3, ge=0, description="retries always allowed to be under way")
    on_status: list[ServerError] = Field(
        [502, 503, 504], description="answers of a backend that count as a failed attempt; never a 4xx"
    )


class Limits(Section):
    """What a backend may have at once, and who may wait."""

    max_in_flight_per_backend: int = Field(64, ge=1, description="requests of this router per backend")
    queue_size: int = Field(64, ge=0, description="requests that may wait per pool")
    queue_seconds: float = Field(5.0, gt=0, description="longest wait; then 503 overloaded")


class Breaker(Section):
    """When a backend that fails is left alone."""

    failures: int = Field(5, ge=1, description="failures in a row that open the breaker")
    open_seconds: float = Field(10.0, gt=0, description="until one request may probe")
    slow_start_seconds: float = Field(
        30.0, ge=0, description="until a recovered backend has its full share again"
    )
    max_ejected_ratio: float = Field(
        0.5, ge=0, le=1, description="share of a pool that breakers may hold back"
    )


class HealthSection(Section):
    """How backends are probed."""

    interval_seconds: float = Field(1.0, gt=0, description="between two probes of a backend")
    timeout_seconds: float = Field(1.0, gt=0, description="for one probe")
    failures: int = Field(3, ge=1, description="failed probes in a row until a backend is unreachable")


class Decisions(Section):
    """What is remembered of past requests."""

    ring: int = Field(10_000, ge=1, le=1_000_000, description="decision records kept in memory")


class Telemetry(Section):
    """Logs and traces."""

    slow_first_token_seconds: float = Field(
        2.0,
        gt=0,
        description="a time to first token over this is slow (label slow, spans of unsampled requests)",
    )
    otlp_endpoint: str | None = Field(
        None, pattern="^https?://", description="OTLP/HTTP endpoint for spans (default: none are sent)"
    )


class Configuration(Section):
    """The router's configuration file."""

    server: Server = Field(default_factory=Server, description="where the router listens")
    pools: dict[Name, PoolSection] = Field(min_length=1, description="the pools, by name; order matters")
    routing: Routing = Field(description="which pool takes which request")
    affinity: Affinity = Field(default_factory=Affinity, description="sessions that stay on their backend")
    redis: Redis | None = Field(None, description="state shared by all replicas")
    timeouts: TimeoutsSection = Field(default_factory=TimeoutsSection, description="the four timeouts")
    retries: Retries = Field(default_factory=Retries, description="bounded retries")
    limits: Limits = Field(default_factory=Limits, description="load per backend and the waiting line")
    breaker: Breaker = Field(default_factory=Breaker, description="circuit breaker per backend")
    health: HealthSection = Field(default_factory=HealthSection, description="active probes")
    decisions: Decisions = Field(default_factory=Decisions, description="decision records")
    telemetry: Telemetry = Field(default_factory=Telemetry, description="logs and traces")


class TargetSection(Section):
    """One pool of a weighted rule."""

    pool: str = Field(description="name of the pool")
    weight: float = Field(1.0, gt=0, description="its share, relative to the others")


class RuleSection(Section):
    """One rule."""

    name: Name = Field(description="shows in records, headers and metrics")
    when: dict[str, Any] = Field(
        description="conditions, all of which must hold; all, any and not combine them"
    )
    route_to: str | list[TargetSection] = Field(description="a pool, or weighted pools")
    split_by: Literal["session_id", "client_id", "request_id"] = Field(
        "session_id", description="what a weighted split is stable for"
    )
    policy: PolicyName | None = Field(None, description="overrides the pool's policy")
    timeouts: RuleTimeouts | None = Field(None, description="overrides single timeouts")
    resume: bool = Field(False, description="continue a broken stream on another backend")


class Expectation(Section):
    """What a rule test expects; what is left out is not compared."""

    pool: str | None = Field(None, description="pool of the decision")
    rule: str | None = Field(None, description="name of the rule, or default")
    reason: str | None = Field(None, description="reason of the decision")


class RuleTest(Section):
    """One test of the rules, run by `router-service check`."""

    name: str = Field(min_length=1, description="a sentence")
    request: dict[str, Any] = Field(description="a request body; model defaults to the default pool's first")
    path: str = Field("/v1/chat/completions", description="path of the request")
    headers: dict[str, str] = Field({}, description="headers of the request")
    client_id: str = Field("", description="who is asking")
    expect: Expectation = Field(description="what must come out")


class RulesFile(Section):
    """The rules file."""

    rules: list[RuleSection] = Field([], description="first match wins")
    tests: list[RuleTest] = Field([], description="run by `router-service check`")
