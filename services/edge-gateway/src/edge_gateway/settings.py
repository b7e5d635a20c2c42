"""The types of an edge settings file. Must not know Envoy's syntax; holds no credentials."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from edge_gateway.client_limits import Limits, Strict
from platform_contracts.configuration_versions import Renamed, take_renamed, version_is_known
from platform_contracts.yaml_document import Document, read

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]

# Keys under their former names, each accepted for one release (ADR 0032).
FORMER_KEYS: tuple[Renamed, ...] = ()

# The environment variables that override a port of the settings file.
PORT_VARIABLES = {
    "EDGE_PORT": ("listen", "port"),
    "EDGE_ADMIN_PORT": ("admin", "port"),
    "EDGE_TELEMETRY_PORT": ("telemetry", "port"),
    "ROUTER_PORT": ("router", "port"),
}
# The same for sections that are disabled unless the file has them.
OPTIONAL_PORT_VARIABLES = {
    "RATE_LIMIT_PORT": ("budgets", "port"),
    "RATE_LIMIT_METRICS_PORT": ("budgets", "metrics_port"),
}


class BadSettings(Exception):
    """A settings or credentials file cannot be used. The message has one line per problem."""


class Address(Strict):
    """An address to listen on or to connect to."""

    host: str = Field("127.0.0.1", description="address to listen on; `::` serves IPv4 too")
    port: Port = Field(description="port")


class ServerTls(Strict):
    """The edge's own certificate. Both files are watched and can be replaced while the edge runs."""

    certificate_file: str = Field(description="PEM file; reloaded when it is replaced")
    private_key_file: str = Field(description="PEM file; reloaded when it is replaced")


class RouterTls(Strict):
    """TLS towards the router; with a client certificate it is mutual."""

    ca_file: str = Field(description="PEM file of the authorities that may sign a router's certificate")
    server_name: str = Field(description="name that the router's certificate must carry")
    certificate_file: str | None = Field(None, description="client certificate, for mutual TLS")
    private_key_file: str | None = Field(None, description="key of the client certificate")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.certificate_file is None) != (self.private_key_file is None):
            raise ValueError("certificate_file and private_key_file belong together")
        return self


class Router(Strict):
    """The only upstream: router-service. Envoy balances over its replicas and checks the health of each."""

    host: str = Field(
        "127.0.0.1", description="name or address; every address a name resolves to is a replica"
    )
    port: Port = Field(8000, description="port of every replica")
    replicas: list[Address] = Field([], description="replicas by address, instead of host and port")
    health_path: str = Field(
        "/readyz", pattern=r"^/[!-~]*$", description="a replica without a 200 here gets no requests"
    )
    health_interval_seconds: float = Field(
        1.0, ge=0.1, description="time between two health checks of a replica"
    )
    connect_timeout_seconds: Seconds = Field(1.0, description="timeout of a TCP connection")
    dead_peer_seconds: float = Field(
        10.0,
        ge=4,
        le=15,
        description="time without packets from a replica's host before its connections are closed",
    )
    keepalive_idle_seconds: Seconds = Field(
        2.0,
        description="idle time before the edge closes a connection; shorter than a router's `server.settle_seconds`",
    )
    max_connections: int = Field(4096, ge=1, description="connections to all routers")
    max_requests: int = Field(4096, ge=1, description="concurrent requests at all routers")
    max_pending_requests: int = Field(1024, ge=1, description="requests that wait for a connection")
    tls: RouterTls | None = Field(None, description="TLS to the router")

    @property
    def addresses(self) -> list[str]:
        """Every configured address as ``host:port``."""
        return [f"{each.host}:{each.port}" for each in self.replicas] or [f"{self.host}:{self.port}"]


class Jwt(Strict):
    """The issuer and audiences of tokens, and the claim that names the client."""

    issuer: str = Field(description="required value of the claim `iss`")
    audiences: list[str] = Field(min_length=1, description="accepted values of the claim `aud`")
    client_claim: str = Field("sub", description="claim that names the client")
    clock_skew_seconds: int = Field(30, ge=0, description="tolerance for `exp` and `nbf`")
    jwks_file: str | None = Field(None, description="file with the signing keys; read once at the start")
    jwks_url: str | None = Field(None, description="URL of the signing keys")
    jwks_ca_file: str = Field(
        "/etc/ssl/certs/ca-certificates.crt", description="PEM file of the authorities for that URL"
    )
    jwks_cache_seconds: Seconds = Field(300.0, description="interval at which the keys are fetched")

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("give exactly one of jwks_file and jwks_url")
        return self


class Auth(Strict):
    """Authentication of clients."""

    mode: Literal["api_keys", "jwt"] = Field("api_keys", description="API keys, or tokens of an issuer")
    keys_file: str | None = Field(
        None, description="file with the clients and their keys; `--keys-file` overrides it"
    )
    jwt: Jwt | None = Field(None, description="required with mode `jwt`")

    @model_validator(mode="after")
    def _mode_has_its_section(self) -> Self:
        if (self.mode == "jwt") != (self.jwt is not None):
            raise ValueError("section jwt and mode: jwt belong together")
        return self


class Budgets(Strict):
    """The rate limit service with the shared budgets."""

    host: str = Field("127.0.0.1", description="name or address of the rate limit service")
    port: Port = Field(8081, description="its gRPC port")
    metrics_port: Port = Field(8082, description="its metrics port")
    redis_url: str = Field("redis://127.0.0.1:6380/1", description="Redis with the budgets")
    when_unavailable: Literal["admit", "refuse"] = Field(
        "admit",
        description="without the store: admit up to unavailable_share, or refuse; without the service: admit, or refuse",
    )
    unavailable_share: float = Field(
        0.1,
        gt=0,
        le=1,
        description="share of a client's limits that each service grants while the store is unavailable",
    )
    timeout_seconds: Seconds = Field(0.25, description="timeout of one call")
    assumed_max_tokens: int = Field(
        8192,
        ge=1,
        description="completion tokens reserved for a request without a limit; the router limits its answer to them",
    )
    prompt_bytes_per_token: float = Field(
        3.0, gt=0, description="bytes of a body that count as one prompt token"
    )
    reservation_seconds: int = Field(
        900, ge=1, description="time after which an unsettled reservation is dropped"
    )


class Timeouts(Strict):
    """The edge's timeouts (seconds)."""

    request_headers_seconds: Seconds = Field(
        10.0, description="timeout of a request's head, and of the first bytes of a connection"
    )
    request_body_seconds: Seconds = Field(60.0, description="timeout of a whole request body")
    silent_answer_seconds: Seconds = Field(
        630.0, description="longest time without bytes of a response; above the router's total_seconds"
    )
    short_request_seconds: Seconds = Field(15.0, description="timeout of a response without generation")
    connection_idle_seconds: Seconds = Field(660.0, description="idle time of a client's HTTP/1 connection")
    tls_idle_seconds: Seconds = Field(
        15.0,
        description="idle time, and timeout of the first request, of HTTP/1 connections with TLS and no `trusted_proxies`",
    )
    http2_idle_seconds: Seconds = Field(
        10.0,
        description="idle time of a client's HTTP/2 connection, and timeout of its first request; it is drained",
    )
    slow_reader_seconds: Seconds = Field(
        120.0, description="longest time during which a client reads nothing"
    )
    drain_seconds: Seconds = Field(
        10.0, description="time from the start of a drain until the listener closes"
    )

    @model_validator(mode="after")
    def _ladder(self) -> Self:
        if self.connection_idle_seconds <= self.silent_answer_seconds:
            raise ValueError("connection_idle_seconds must be above silent_answer_seconds")
        return self


class Bounds(Strict):
    """Sizes and counts that limit how much memory one client, and all clients together, can use."""

    max_body_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, le=1 << 30, description="largest request body; enough for two phone photos"
    )
    max_client_body_bytes: int = Field(
        128 * 1024 * 1024,
        ge=1024,
        description="bytes of request bodies that one client may have in flight in one edge process",
    )
    media_hosts: list[Annotated[str, Field(pattern=r"^[a-z0-9.-]+$")]] = Field(
        [],
        description="allowed hosts in image_url, video_url and audio_url; the default allows only data: URLs",
    )
    max_header_kib: int = Field(16, ge=1, le=96, description="size of all headers of a request")
    max_header_count: int = Field(60, ge=10, le=1000, description="number of headers of a request")
    connection_buffer_bytes: int = Field(
        32 * 1024, ge=4096, description="bytes buffered in each direction of a connection"
    )
    max_connections: int = Field(10_000, ge=1, description="connections of all clients")
    max_streams_per_connection: int = Field(100, ge=1, description="HTTP/2 streams of one connection")
    max_heap_bytes: int = Field(
        716 * 1024 * 1024,
        ge=64 * 1024 * 1024,
        description="heap size at which Envoy resets streams; at most 70 % of the container's memory limit",
    )


class Cors(Strict):
    """Web pages that may read responses. Without this section no web page may."""

    allow_origins: list[str] = Field(
        min_length=1, description="exact origins, for example https://chat.example.com"
    )
    max_age_seconds: int = Field(600, ge=0, description="how long a browser may cache a preflight response")


class Collector(Strict):
    """An OpenTelemetry collector (gRPC)."""

    host: str = Field(description="name or address")
    port: Port = Field(4317, description="gRPC port")


class Tracing(Strict):
    """Tracing. Only the edge decides sampling."""

    sample_ratio: float = Field(0.01, ge=0, le=1, description="share of requests that are traced")
    collector: Collector | None = Field(None, description="if unset, spans are dropped")


class Settings(Strict):
    """The whole settings file of an edge."""

    api_version: Literal["v1"] = Field(
        "v1", description="version of this file's keys; every release names the versions that it reads"
    )
    listen: Address = Field(Address(port=8080), description="the clients' listener")
    admin: Address = Field(Address(port=9901), description="Envoy's admin interface; loopback only")
    telemetry: Address = Field(Address(port=9902), description="listener for metrics and readiness")
    trusted_proxies: int = Field(
        0, ge=0, le=5, description="number of trusted proxies in front, for x-forwarded-for"
    )
    tls: ServerTls | None = Field(None, description="certificate of the edge")
    router: Router = Field(Router(), description="the routers")
    auth: Auth = Field(Auth(), description="authentication of clients")
    limits: Limits = Field(Limits(), description="rates and budgets of clients")
    budgets: Budgets | None = Field(None, description="the rate limit service")
    timeouts: Timeouts = Field(Timeouts(), description="timeouts in seconds")
    bounds: Bounds = Field(Bounds(), description="sizes and counts")
    tracing: Tracing = Field(Tracing(), description="traces")
    cors: Cors | None = Field(None, description="web pages that may read responses")

    @model_validator(mode="after")
    def _shared_limits_need_the_service(self) -> Self:
        for name, limits in {"default": self.limits.default, **self.limits.clients}.items():
            if self.budgets is None and limits.shared():
                raise ValueError(f"limits of {name}: {limits.shared()[0]} needs the section budgets")
        for name, team in self.limits.teams.items():
            if self.budgets is None:
                raise ValueError(f"limits.teams.{name}: {team.shared()[0]} needs the section budgets")
        if self.admin.host not in ("127.0.0.1", "::1"):
            raise ValueError("admin.host must be loopback: the admin interface has no authentication")
        return self


def load_settings(
    path: Path,
    environment: Mapping[str, str] | None = None,
    warn: Callable[[str], object] = lambda _: None,
) -> Settings:
    """Read a settings file; environment variables override its ports. ``warn`` is called for each former key.

    Raises:
        BadSettings: unreadable, unknown keys, wrong values; all mistakes at once with their lines.
    """
    placed = Document(path, marks=read(path).marks, data=read_yaml(path))
    if version_is_known(placed, "docs/edge-settings.md"):
        take_renamed(placed, FORMER_KEYS)
    if placed.problems:
        raise BadSettings("\n".join(map(str, placed.problems)))
    for warning in placed.warnings:
        warn(str(warning))
    document = placed.data
    given = os.environ if environment is None else environment
    for variable, (section, key) in PORT_VARIABLES.items():
        if given.get(variable):
            document.setdefault(section, {})[key] = given[variable]
    for variable, (section, key) in OPTIONAL_PORT_VARIABLES.items():
        if given.get(variable) and section in document:
            document[section] = {**(document[section] or {}), key: given[variable]}
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        raise BadSettings(_explain(placed, error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        BadSettings: the file is missing, is not YAML or is not a mapping.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadSettings(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise BadSettings(f"{path}: not YAML: {error}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadSettings(f"{path}: must be a mapping at the top")
    return document


def _explain(document: Document, error: ValidationError) -> str:
    for problem in error.errors():
        shown = problem["input"] if isinstance(problem["input"], str | int | float) else None
        value = f" (is {shown!r})" if shown is not None else ""
        document.problem(problem["loc"], f"{problem['msg']}{value}")
    return "\n".join(str(problem) for problem in document.problems)
