"""The schema of the configuration: every key with type, bounds, default and description.

`docs/configuration.md` is generated from these descriptions.
"""

from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints

from router_service.config.client_model import ClassSection, Clients, PrivacySection, WhenNoneReady
from router_service.config.section import Name, Section
from router_service.routing.policies import POLICIES


def _reachable(url: str) -> str:
    """Refuse URLs to which no connection can be opened while the place of the mistake is known."""
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


class Server(Section):
    """The router's listener and its shutdown."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 or :: in a pod")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    settle_seconds: float = Field(
        3.0,
        ge=0,
        description="after SIGTERM: time during which the router is not ready but still accepts requests, until load "
        "balancers notice; longer than they keep idle connections (the edge: 2 s)",
    )
    max_body_bytes: int = Field(
        32 * 1024 * 1024, gt=0, description="larger request bodies are refused with 413"
    )


class Backend(Section):
    """One engine."""

    url: HttpUrl = Field(description="address of the engine")
    health_url: HttpUrl | None = Field(None, description="URL of the health probe (default: url + /health)")


class EndpointSlices(Section):
    """A Kubernetes Service whose EndpointSlices are watched."""

    service: Name = Field(description="name of the Service")
    namespace: Name = Field(description="its namespace")


class Discover(Section):
    """Discovery of changing backends. Exactly one of dns and endpoint_slices."""

    dns: str | None = Field(None, min_length=1, description="name of a headless Service, re-resolved")
    endpoint_slices: EndpointSlices | None = Field(None, description="EndpointSlices to watch")
    port: int = Field(8000, ge=1, le=65535, description="port of the engine")
    health_port: int | None = Field(None, ge=1, le=65535, description="port of the agent (default: port)")
    health_path: str = Field("/health", pattern="^/", description="path of the health probe")
    interval_seconds: float = Field(5.0, gt=0, description="interval of DNS lookups")


class PoolSection(Section):
    """A set of interchangeable backends. Exactly one of backends and discover."""

    policy: PolicyName = Field("least_loaded", description="policy that chooses a backend")
    models: list[str] = Field(min_length=1, description='models that this pool serves; "*" for any')
    aliases: dict[str, str] = Field({}, description="additional names, each for one of models")
    engine_knows_aliases: bool = Field(
        False,
        description="the engines serve the aliases themselves: the request passes unchanged. By default the router "
        "writes the model's own name into the request and the alias into the answer",
    )
    backends: dict[Name, Backend] | None = Field(None, description="the engines, by name")
    discover: Discover | None = Field(None, description="discovery of the engines")
    when_none_ready: WhenNoneReady | None = Field(
        None, description="requests wait while no backend is ready (default: 503 at once)"
    )


class Routing(Section):
    """The pool of requests that no rule matches, and fallbacks."""

    default_pool: str = Field(description="the pool of requests that no rule matches")
    fallback: dict[str, list[str]] = Field({}, description="pools to try if no backend of a pool is ready")
    rules_file: str | None = Field(None, description="file with the rules, relative to this one")
    weights_file: str | None = Field(
        None,
        min_length=1,
        description="file with the shares of rollouts, relative to this one; written by `router-service rollout run`. "
        "While it does not exist, every rollout is at 0 percent",
    )


SessionSource = Annotated[
    str,
    StringConstraints(
        pattern=r"^(header:[a-z0-9_-]{1,64}|body:[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,3})$"
    ),
]


class Affinity(Section):
    """Session affinity: the requests of a session go to one backend."""

    enabled: bool = Field(True, description="whether the requests of a session go to one backend")
    header: str = Field(
        "x-session-id",
        pattern="^[a-z0-9-]+$",
        description="header with the session id; read before the sources",
    )
    sources: list[SessionSource] = Field(
        [
            "header:x-claude-code-session-id",
            "header:session-id",
            "header:session_id",
            "body:prompt_cache_key",
            "body:metadata.user_id",
        ],
        description="other places of the session id, read in this order: header:NAME, then body:FIELD or "
        "body:FIELD.FIELD. The record has the used one. Do not list a field that many conversations share: they "
        "would all go to one backend",
    )
    ttl_seconds: float = Field(
        1800.0,
        gt=0,
        description="how long a session without requests stays pinned, and the backend of a stored response known",
    )


class Redis(Section):
    """State shared by all replicas. Without it, each replica keeps its own state in memory."""

    url: str = Field(
        pattern="^(redis|rediss|unix)://[^@]*$", description="address; a password belongs in password_file"
    )
    user: str | None = Field(
        None, pattern=r"^\S+$", description="user of Redis's ACL; left out: `default`; needs password_file"
    )
    password_file: str | None = Field(None, description="file with the password")
    ca_file: str | None = Field(
        None,
        description="PEM file of the authorities that may sign Redis's certificate, for `rediss://`; left out: the system's",
    )
    timeout_seconds: float = Field(
        0.05, gt=0, le=1, description="longest time that a request waits for Redis"
    )


class BudgetsSection(Section):
    """Token budgets that the edge reserves. Left out: only the edge settles them."""

    address: str = Field(
        pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$|^\[[0-9a-fA-F:.]+\]:[0-9]{1,5}$",
        description="host:port of the rate limit service, where the router settles answers whose client left or "
        "that broke off",
    )
    timeout_seconds: float = Field(
        2.0, gt=0, le=30, description="for one settlement; no request waits for it"
    )


class TimeoutsSection(Section):
    """Four timeouts. The first three apply to each attempt, total to the whole request."""

    connect_seconds: float = Field(1.0, gt=0, description="to connect to a backend")
    first_token_seconds: float = Field(60.0, gt=0, description="until the first body byte of a stream")
    idle_seconds: float = Field(
        30.0, gt=0, description="between two events of a stream; comments do not count"
    )
    total_seconds: float = Field(600.0, gt=0, description="for the whole request, all attempts together")
    edge_silence_seconds: float = Field(
        630.0,
        gt=0,
        description="`timeouts.silent_answer_seconds` of the edge: after this time without bytes the edge ends a request. "
        "Only `check` reads it",
    )


class Retries(Section):
    """Conditions for repeating, on another backend, an attempt that failed before the first body byte."""

    max_attempts: int = Field(3, ge=1, le=10, description="attempts of one request, including the first")
    budget_ratio: float = Field(
        0.2,
        ge=0,
        le=1,
        description="concurrent retries, as a share of active requests; retries after lost connections do not count",
    )
    budget_min: int = Field(3, ge=0, description="number of concurrent retries that is always allowed")
    on_status: list[ServerError] = Field(
        [502, 503, 504], description="statuses of a backend that count as a failed attempt; never a 4xx"
    )


class Limits(Section):
    """Limits of concurrent and waiting requests."""

    max_in_flight_per_backend: int | None = Field(
        None,
        ge=1,
        description="most concurrent requests of this router per backend; the limit is the lower of this number and the "
        "engine's `--max-num-seqs`, as its agent reports it; 64 if neither is known",
    )
    queue_size: int = Field(64, ge=0, description="requests that may wait per pool")
    queue_seconds: float = Field(5.0, gt=0, description="longest wait; then 503 overloaded")
    client_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="share of a pool's slots that one client may take while another client has used the pool within "
        "ten minutes; 1 lets one client take all",
    )
    lend_after_seconds: float = Field(
        10.0,
        gt=0,
        description="other classes may use a class's kept slots after it has sent no request for this time",
    )
    shadow_slots: int = Field(
        8,
        ge=1,
        le=1024,
        description="most copies of requests (`shadow` of a rule) that this router runs at once",
    )
    shadow_body_bytes: int = Field(
        1024 * 1024, ge=1, description="requests with a larger body are not copied"
    )


class Breaker(Section):
    """When a failing backend receives no requests."""

    failures: int = Field(5, ge=1, description="consecutive failures that open the breaker")
    open_seconds: float = Field(10.0, gt=0, description="time until one request may probe the backend")
    slow_start_seconds: float = Field(
        30.0, ge=0, description="time until a recovered backend has its full load again"
    )
    max_ejected_ratio: float = Field(
        0.5,
        ge=0,
        le=1,
        description="largest share of a pool that breakers may block; never its last usable backend of several",
    )


class HealthSection(Section):
    """How backends are probed."""

    interval_seconds: float = Field(1.0, gt=0, description="interval between two probes of a backend")
    timeout_seconds: float = Field(1.0, gt=0, description="timeout of one probe")
    failures: int = Field(3, ge=1, description="consecutive failed probes until a backend is unreachable")
    max_in_flight: int = Field(256, ge=1, description="maximum number of concurrent probes")


class Decisions(Section):
    """Storage of decision records."""

    ring: int = Field(10_000, ge=1, le=1_000_000, description="decision records kept in memory")
    ring_bytes: int = Field(
        64 * 1024 * 1024, ge=65_536, description="largest total size of the decision records in memory"
    )


class Peers(Section):
    """The other replicas of this router. Exactly one of urls and dns."""

    urls: list[HttpUrl] = Field(
        [], max_length=64, description="addresses of the replicas; this one may be among them"
    )
    dns: str | None = Field(
        None,
        min_length=1,
        description="name of a headless Service, resolved at each lookup; at most 64 addresses",
    )
    port: int = Field(8000, ge=1, le=65535, description="port of the addresses that dns resolves to")
    timeout_seconds: float = Field(
        0.5,
        gt=0,
        le=5,
        description="timeout of one lookup of a record; all replicas are queried concurrently",
    )


class Telemetry(Section):
    """Logs and traces."""

    slow_first_token_seconds: float = Field(
        2.0,
        gt=0,
        description="a longer time to first token counts as slow (label slow, spans of unsampled requests)",
    )
    otlp_endpoint: str | None = Field(
        None, pattern="^https?://", description="OTLP/HTTP endpoint for spans (default: none are sent)"
    )


class Configuration(Section):
    """The router's configuration file."""

    api_version: Literal["v1"] = Field(
        "v1", description="version of this file's keys; every release names the versions that it reads"
    )
    server: Server = Field(default_factory=Server, description="where the router listens")
    pools: dict[Name, PoolSection] = Field(min_length=1, description="the pools, by name; order matters")
    routing: Routing = Field(description="which pool takes which request")
    affinity: Affinity = Field(
        default_factory=Affinity, description="session affinity: the requests of a session go to one backend"
    )
    redis: Redis | None = Field(None, description="state shared by all replicas")
    budgets: BudgetsSection | None = Field(None, description="settles the token budgets of cut-off answers")
    timeouts: TimeoutsSection = Field(default_factory=TimeoutsSection, description="the four timeouts")
    retries: Retries = Field(default_factory=Retries, description="bounded retries")
    limits: Limits = Field(default_factory=Limits, description="load per backend, and the queue")
    breaker: Breaker = Field(default_factory=Breaker, description="circuit breaker per backend")
    health: HealthSection = Field(default_factory=HealthSection, description="active probes")
    decisions: Decisions = Field(default_factory=Decisions, description="decision records")
    peers: Peers | None = Field(
        None,
        description="replicas that are queried for the record of a request that this router did not handle",
    )
    privacy: PrivacySection = Field(
        default_factory=PrivacySection, description="what clients can learn about each other"
    )
    clients: Clients = Field(default_factory=Clients, description="which models each client may use")
    classes: dict[Name, ClassSection] = Field(
        {},
        description="classes of requests, by name. A request that nothing assigns has the class `default`, which keeps "
        "nothing unless it is listed. Empty: requests have no class",
    )
    telemetry: Telemetry = Field(default_factory=Telemetry, description="logs and traces")
