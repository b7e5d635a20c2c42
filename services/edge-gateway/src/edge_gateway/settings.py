"""The typed contract of an edge settings file. Knows no Envoy syntax and holds no credential."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
CLIENT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$"
ClientName = Annotated[str, Field(pattern=CLIENT_NAME)]

# The environment variables that override a port of the settings file.
PORT_VARIABLES = {
    "EDGE_PORT": ("listen", "port"),
    "EDGE_ADMIN_PORT": ("admin", "port"),
    "EDGE_TELEMETRY_PORT": ("telemetry", "port"),
    "ROUTER_PORT": ("router", "port"),
}
# The same for sections that are off unless the file has them.
OPTIONAL_PORT_VARIABLES = {
    "RATE_LIMIT_PORT": ("budgets", "port"),
    "RATE_LIMIT_METRICS_PORT": ("budgets", "metrics_port"),
}


class BadSettings(Exception):
    """A settings or credentials file cannot be used. The message has one line per problem."""


class Strict(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Address(Strict):
    """Where something listens."""

    host: str = "127.0.0.1"
    port: Port


class ServerTls(Strict):
    """The edge's own certificate. Both files are watched, so they may be replaced while running."""

    certificate_file: str
    private_key_file: str


class RouterTls(Strict):
    """TLS towards the router; with a client certificate it is mutual."""

    ca_file: str
    server_name: str
    certificate_file: str | None = None
    private_key_file: str | None = None

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        if (self.certificate_file is None) != (self.private_key_file is None):
            raise ValueError("certificate_file and private_key_file belong together")
        return self


class Router(Strict):
    """The one upstream. Every address its name resolves to is a replica."""

    host: str = "127.0.0.1"
    port: Port = 8000
    connect_timeout_seconds: Seconds = 1.0
    keepalive_idle_seconds: Seconds = 2.0
    """Shorter than a router's `server.settle_seconds`: one that ends has no idle connection of ours left to close."""
    max_connections: int = Field(4096, ge=1)
    max_requests: int = Field(4096, ge=1)
    max_pending_requests: int = Field(1024, ge=1)
    tls: RouterTls | None = None


class Jwt(Strict):
    """Who may sign, for whom, and which claim names the client."""

    issuer: str
    audiences: list[str] = Field(min_length=1)
    client_claim: str = "sub"
    clock_skew_seconds: int = Field(30, ge=0)
    jwks_file: str | None = None
    jwks_url: str | None = None
    jwks_ca_file: str = "/etc/ssl/certs/ca-certificates.crt"
    jwks_cache_seconds: Seconds = 300.0

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("give exactly one of jwks_file and jwks_url")
        return self


class Auth(Strict):
    """How a client proves who it is."""

    mode: Literal["api_keys", "jwt"] = "api_keys"
    keys_file: str | None = None
    jwt: Jwt | None = None

    @model_validator(mode="after")
    def _mode_has_its_section(self) -> Self:
        if (self.mode == "jwt") != (self.jwt is not None):
            raise ValueError("section jwt and mode: jwt belong together")
        return self


class ClientLimits(Strict):
    """How much one client may ask for.

    ``requests_per_second`` and ``burst`` are a bucket in each edge replica. The ``..._per_minute``
    figures are shared by all replicas and need ``budgets``.
    """

    requests_per_second: float = Field(20.0, gt=0, le=1_000_000)
    burst: int = Field(40, ge=1, le=4_000_000)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


class Limits(Strict):
    """Limits of clients by name; ``default`` holds for every client not named, each on its own."""

    default: ClientLimits = ClientLimits()
    clients: dict[ClientName, ClientLimits] = {}
    max_unnamed_clients: int = Field(10_000, ge=1)


class Budgets(Strict):
    """The rate limit service that keeps the shared budgets."""

    host: str = "127.0.0.1"
    port: Port = 8081
    metrics_port: Port = 8082
    redis_url: str = "redis://127.0.0.1:6380/1"
    when_unavailable: Literal["admit", "refuse"] = "admit"
    timeout_seconds: Seconds = 0.25
    assumed_max_tokens: int = Field(1024, ge=1)
    prompt_bytes_per_token: float = Field(3.0, gt=0)
    reservation_seconds: int = Field(900, ge=1)


class Timeouts(Strict):
    """The edge's part of the time ladder (seconds)."""

    request_headers_seconds: Seconds = 10.0
    request_body_seconds: Seconds = 60.0
    silent_answer_seconds: Seconds = 630.0
    short_request_seconds: Seconds = 15.0
    connection_idle_seconds: Seconds = 660.0
    slow_reader_seconds: Seconds = 120.0
    drain_seconds: Seconds = 10.0

    @model_validator(mode="after")
    def _ladder(self) -> Self:
        if self.connection_idle_seconds <= self.silent_answer_seconds:
            raise ValueError("connection_idle_seconds must be above silent_answer_seconds")
        return self


class Bounds(Strict):
    """Sizes and counts that bound what one client, and all together, can make the edge hold."""

    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, le=1 << 30)
    max_header_kib: int = Field(16, ge=1, le=96)
    max_header_count: int = Field(60, ge=10, le=1000)
    connection_buffer_bytes: int = Field(32 * 1024, ge=4096)
    max_connections: int = Field(10_000, ge=1)
    max_streams_per_connection: int = Field(100, ge=1)
    max_heap_bytes: int = Field(1024 * 1024 * 1024, ge=64 * 1024 * 1024)


class Collector(Strict):
    """An OpenTelemetry collector (gRPC)."""

    host: str
    port: Port = 4317


class Tracing(Strict):
    """The edge alone decides sampling."""

    sample_ratio: float = Field(0.01, ge=0, le=1)
    collector: Collector | None = None


class Settings(Strict):
    """Everything that may differ between two deployments of the edge."""

    listen: Address = Address(port=8080)
    admin: Address = Address(port=9901)
    telemetry: Address = Address(port=9902)
    trusted_proxies: int = Field(0, ge=0, le=5)
    tls: ServerTls | None = None
    router: Router = Router()
    auth: Auth = Auth()
    limits: Limits = Limits()
    budgets: Budgets | None = None
    timeouts: Timeouts = Timeouts()
    bounds: Bounds = Bounds()
    tracing: Tracing = Tracing()

    @model_validator(mode="after")
    def _shared_limits_need_the_service(self) -> Self:
        for name, limits in {"default": self.limits.default, **self.limits.clients}.items():
            if self.budgets is None and (limits.tokens_per_minute or limits.requests_per_minute):
                raise ValueError(f"limits of {name}: a limit per minute needs the section budgets")
        if self.admin.host not in ("127.0.0.1", "::1"):
            raise ValueError("admin.host must be loopback: the admin interface has no authentication")
        return self


def load_settings(path: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """Read a settings file; ports come from the environment where it names them.

    Raises:
        BadSettings: unreadable, unknown keys, wrong values; all of them at once with their lines.
    """
    document = read_yaml(path)
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
        raise BadSettings(_explain(path, error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping a YAML file holds.

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


def _explain(path: Path, error: ValidationError) -> str:
    root = yaml.compose(path.read_text())
    lines = []
    for problem in error.errors():
        line, column = _position(root, problem["loc"])
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        shown = problem["input"] if isinstance(problem["input"], str | int | float) else None
        value = f" (is {shown!r})" if shown is not None else ""
        lines.append(f"{path}:{line}:{column}: {where}: {problem['msg']}{value}")
    return "\n".join(lines)


def _position(root: yaml.Node | None, location: tuple[int | str, ...]) -> tuple[int, int]:
    node, mark = root, root.start_mark if root else None
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == str(part):
                node, mark = value, key.start_mark
                break
        else:
            break
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)
