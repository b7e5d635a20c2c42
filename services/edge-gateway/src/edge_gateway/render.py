"""Renders Envoy's files from settings and credentials. Starts no process and opens no connection."""

import copy
import hashlib
import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import jinja2
import yaml

from edge_gateway.admission_rules import lua_prelude
from edge_gateway.client_policies import API as _API
from edge_gateway.client_policies import cors_policy, duration, rate_buckets
from edge_gateway.local_replies import local_replies
from edge_gateway.settings import BadSettings, Settings
from edge_gateway.yaml_output import SharedList, SharedMapping, dump

ROUTES_FILE = "routes.yaml"
ENVOY_FILE = "envoy.yaml"

# The filter whose per-route configuration holds the digests of the API keys.
AUTHENTICATION = "edge.authentication"
CLIENTS_TABLE = "CLIENTS"

# The filter that ends connections without an authenticated request, and its scripts by name. A route names one, so
# that all routes share one Lua state. JWTs are refused by a filter without a script.
CLOSING = "edge.closing"
_CLOSING_SCRIPTS = {
    "close": "function envoy_on_request(handle) close_unauthenticated(handle) end\n",
    "close_refused": """\
function envoy_on_response(handle)
  if handle:headers():get(":status") == "401" then close_unauthenticated(handle) end
end
""",
}
_CLOSE = {CLOSING: {"@type": f"{_API}.lua.v3.LuaPerRoute", "name": "close"}}

# Envoy's CORS filter ignores routes with a direct response. Requests that it does not answer here need a key.
_PREFLIGHT: list[dict[str, Any]] = [
    {
        "name": "preflight",
        "match": {
            "prefix": "/",
            "headers": [
                {"name": ":method", "string_match": {"exact": "OPTIONS"}},
                {"name": "access-control-request-method", "present_match": True},
            ],
        },
        "route": {"cluster": "router", "timeout": "5s"},
        "typed_per_filter_config": _CLOSE,
    }
]

# Retry once, before the response has begun, on a replica that has not had the request if one exists.
_RETRY_ONCE = SharedMapping(
    {
        "retry_on": "connect-failure,reset-before-request,reset",
        "num_retries": 1,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.1s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        # Least-request balancing prefers the failed replica, which has no requests in flight: of two replicas it is
        # drawn three times in four, so with few draws one request in three would return to it.
        "host_selection_retry_max_attempts": 50,
    }
)

_FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


@dataclass(frozen=True)
class Rendered:
    """The files of one edge by name. ``secret`` names those with credentials."""

    files: dict[str, str]
    secret: frozenset[str]

    def write(self, directory: Path) -> None:
        """Write every file atomically: Envoy watches the directory and never reads an incomplete file."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            write_atomically(directory / name, text, 0o600 if name in self.secret else 0o644)


def write_atomically(path: Path, text: str, mode: int) -> None:
    """Replace ``path`` by a file with ``text``; a watcher sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    draft.replace(path)


def source_directory() -> Path:
    """Return the folder with the sources of the Envoy configuration (next to ``src``, or inside the wheel)."""
    packaged = Path(__file__).parent / "_envoy"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "envoy"


def render(
    settings: Settings,
    digests: Mapping[str, list[str]] | None,
    directory: Path,
    routes_file: Path | None = None,
) -> Rendered:
    """Return the files of an edge that reads them from ``directory``.

    ``digests`` are the SHA-256 of each client's API keys (hexadecimal). ``routes_file`` is the path at which
    Envoy watches the route table, if that is mounted elsewhere (a Secret).

    Raises:
        BadSettings: API-key mode without any key.
    """
    if settings.auth.mode == "api_keys" and not digests:
        raise BadSettings("no API key is configured; an edge without credentials does not start")
    return _Renderer(settings, digests, directory, routes_file).render()


def render_without_routes(settings: Settings, directory: Path, routes_file: Path) -> Rendered:
    """Return the files of an edge whose route table, with its credentials, exists already at ``routes_file``."""
    return _Renderer(settings, None, directory, routes_file).without_routes()


class HasAddress(Protocol):
    """Anything with a host and a port."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


@dataclass(frozen=True)
class _JwksEndpoint:
    host: str
    port: int
    tls: bool


class _Renderer:
    def __init__(
        self,
        settings: Settings,
        digests: Mapping[str, list[str]] | None,
        directory: Path,
        routes_file: Path | None,
    ) -> None:
        self._settings = settings
        self._digests = digests or {}
        self._directory = directory
        self._routes_file = routes_file or directory / ROUTES_FILE
        self._source = source_directory()
        self._paths: list[dict[str, Any]] = self._plain("paths.yaml")["paths"]
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(self._source),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
        )
        self._environment.filters["duration"] = duration
        self._environment.filters["dirname"] = posixpath.dirname
        self._environment.globals["endpoints"] = _endpoints

    def render(self) -> Rendered:
        files = {**self.without_routes().files, ROUTES_FILE: self._versioned(dump(self._routes()))}
        return Rendered(files, frozenset({ROUTES_FILE}))

    @staticmethod
    def _versioned(routes: str) -> str:
        """Return the table with a digest as its version: Envoy's `rds.version` changes only with the contents."""
        return f"version_info: {hashlib.sha256(routes.encode()).hexdigest()[:16]!r}\n{routes}"

    def without_routes(self) -> Rendered:
        files = {ENVOY_FILE: dump(self._envoy())}
        files |= {name: dump(document) for name, document in self._certificates().items()}
        return Rendered(files, frozenset())

    def _plain(self, name: str) -> Any:
        return yaml.safe_load((self._source / name).read_text())

    def _template(self, name: str) -> Any:
        context: dict[str, Any] = {
            key: getattr(self._settings, key) for key in type(self._settings).model_fields
        }
        context |= {
            "files": {
                "routes": str(self._routes_file),
                "routes_directory": str(self._routes_file.parent),
                "edge_certificate": str(self._directory / "edge_certificate.yaml"),
                "router_client_certificate": str(self._directory / "router_client_certificate.yaml"),
            },
            "public": self._paths,
            "jwks_endpoint": self._jwks_endpoint(),
        }
        return yaml.safe_load(self._environment.get_template(name).render(context))

    def _envoy(self) -> dict[str, Any]:
        document: dict[str, Any] = self._template("bootstrap.yaml.j2")
        listener = self._template("edge_listener.yaml.j2")
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        log_format = manager["access_log"][0]["typed_config"]["log_format"]
        log_format["json_format"] = self._plain("access_log.yaml")
        replies = local_replies(self._plain("local_replies.yaml"), self._settings.limits)
        manager["local_reply_config"] = SharedMapping(replies)
        filters = self._template("http_filters.yaml.j2")
        admission = next(entry for entry in filters if entry["name"] == "envoy.filters.http.lua")
        admission["typed_config"]["default_source_code"]["inline_string"] = self._admission()
        closing = next(entry for entry in filters if entry["name"] == CLOSING)
        closing["typed_config"]["source_codes"] = {
            name: {"inline_string": self._closing() + script} for name, script in _CLOSING_SCRIPTS.items()
        }
        manager["http_filters"] = SharedList(filters)
        listener["filter_chains"].append(
            _for_http2(listener["filter_chains"][0], self._settings.timeouts.http2_idle_seconds)
        )
        document["static_resources"] = {
            "listeners": [listener, self._template("telemetry_listener.yaml.j2")],
            "clusters": self._template("clusters.yaml.j2"),
        }
        return document

    def _admission(self) -> str:
        prelude = lua_prelude(self._paths, self._settings.bounds, self._settings.budgets)
        scripts = ("json_check.lua", "form_check.lua", "held_bodies.lua", "admission.lua")
        return "\n".join([prelude, *((self._source / "lua" / name).read_text() for name in scripts)])

    def _routes(self) -> dict[str, Any]:
        document: dict[str, Any] = self._template("routes.yaml.j2")
        host = document["resources"][0]["virtual_hosts"][0]
        host["typed_per_filter_config"] = self._per_client()
        disabled = SharedMapping(self._disabled())
        host["routes"] = [
            *(_PREFLIGHT if self._settings.cors else []),
            *(route for entry in self._paths for route in self._routes_of(entry, disabled)),
            {"name": "/healthz", "match": {"path": "/healthz"}, **_refusal(405, disabled, allow="GET, HEAD")},
            {"name": "unknown", "match": {"prefix": "/"}, **_refusal(404, disabled)},
        ]
        return document

    def _per_client(self) -> dict[str, Any]:
        per_client: dict[str, Any] = {"envoy.filters.http.local_ratelimit": rate_buckets(self._settings)}
        if self._settings.cors:
            per_client["envoy.filters.http.cors"] = cors_policy(self._settings.cors)
        if self._settings.auth.mode == "api_keys":
            per_client[AUTHENTICATION] = {
                "@type": f"{_API}.lua.v3.LuaPerRoute",
                "source_code": {"inline_string": self._authentication()},
            }
        else:
            per_client[CLOSING] = {"@type": f"{_API}.lua.v3.LuaPerRoute", "name": "close_refused"}
        return per_client

    def _closing(self) -> str:
        direct = json.dumps(self._settings.trusted_proxies == 0)
        return f"local DIRECT = {direct}\n" + (self._source / "lua" / "closing.lua").read_text()

    def _authentication(self) -> str:
        clients = {digest: name for name, digests in self._digests.items() for digest in digests}
        lines = [f"local {CLIENTS_TABLE} = {{"]
        lines += [f"  [{json.dumps(digest)}] = {json.dumps(name)}," for digest, name in clients.items()]
        lua = self._source / "lua"
        return "\n".join(
            [
                *(*lines, "}", self._closing()),
                *((lua / name).read_text() for name in ("sha256.lua", "authentication.lua")),
            ]
        )

    def _disabled(self) -> dict[str, Any]:
        names = ["envoy.filters.http.local_ratelimit", "envoy.filters.http.lua"]
        if self._settings.budgets:
            names.append("envoy.filters.http.ratelimit")
        if self._settings.auth.mode == "api_keys":
            names.append(AUTHENTICATION)
        disabled = {name: {"@type": _FILTER_CONFIG, "disabled": True} for name in names}
        return {**disabled, **_CLOSE}

    def _routes_of(self, entry: Mapping[str, Any], disabled: dict[str, Any]) -> list[dict[str, Any]]:
        name = entry.get("name") or entry["path"]
        where = {"path": entry["path"]} if "path" in entry else {"safe_regex": {"regex": entry["pattern"]}}
        times = self._settings.timeouts
        action: dict[str, Any] = {
            "cluster": "router",
            "retry_policy": _RETRY_ONCE,
        }
        # A response that is being generated has no timeout here, only an idle timeout. The router's
        # total_seconds limits it, and Envoy's default of 15 s would cut it with a status of 200.
        if "body" in entry or entry.get("long"):
            action |= {"timeout": "0s", "idle_timeout": duration(times.silent_answer_seconds)}
        else:
            action |= {"timeout": duration(times.short_request_seconds)}
        route: dict[str, Any] = {
            "name": name,
            "match": {**where, "headers": [{"name": ":method", "string_match": {"exact": entry["method"]}}]},
            "route": action,
        }
        if "body" in entry:
            limit = entry["body"].get("max_bytes", self._settings.bounds.max_body_bytes)
            route["request_body_buffer_limit"] = limit
        refused = {"name": name, "match": where, **_refusal(405, disabled, allow=entry["method"])}
        return [route, refused]

    def _certificates(self) -> dict[str, Any]:
        files: dict[str, Any] = {}
        edge, router = self._settings.tls, self._settings.router.tls
        if edge:
            files["edge_certificate.yaml"] = _certificate(
                "edge_certificate", edge.certificate_file, edge.private_key_file
            )
        if router and router.certificate_file and router.private_key_file:
            files["router_client_certificate.yaml"] = _certificate(
                "router_client_certificate", router.certificate_file, router.private_key_file
            )
        return files

    def _jwks_endpoint(self) -> _JwksEndpoint | None:
        jwt = self._settings.auth.jwt
        if jwt is None or jwt.jwks_url is None:
            return None
        url = urlsplit(jwt.jwks_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise BadSettings(f"auth.jwt.jwks_url: {jwt.jwks_url!r} is not an http(s) URL")
        tls = url.scheme == "https"
        return _JwksEndpoint(url.hostname, url.port or (443 if tls else 80), tls)


def _for_http2(http1: Mapping[str, Any], idle_seconds: float) -> dict[str, Any]:
    """Return the filter chain for HTTP/2: the chain for HTTP/1 with its own idle timeout.

    The inspectors of the listener choose the chain: by the preface, or with TLS by the ALPN names that a client offers.
    """
    match = dict(http1.get("filter_chain_match", {}))
    match["application_protocols"] = ["h2" if match else "h2c"]
    chain: dict[str, Any] = {**http1, "name": "clients-http2", "filter_chain_match": match}
    if "transport_socket" in http1:
        chain["transport_socket"] = copy.deepcopy(http1["transport_socket"])
        context = chain["transport_socket"]["typed_config"]["common_tls_context"]
        context["alpn_protocols"] = ["h2"]
    (network_filter,) = http1["filters"]
    manager = dict(network_filter["typed_config"], codec_type="HTTP2")
    manager["common_http_protocol_options"] = {
        **manager["common_http_protocol_options"],
        "idle_timeout": duration(idle_seconds),
    }
    chain["filters"] = [{**network_filter, "typed_config": manager}]
    return chain


def _refusal(status: int, disabled: dict[str, Any], allow: str | None = None) -> dict[str, Any]:
    refusal: dict[str, Any] = {"direct_response": {"status": status}, "typed_per_filter_config": disabled}
    if allow:
        refusal["response_headers_to_add"] = [{"header": {"key": "allow", "value": allow}}]
    return refusal


def _certificate(name: str, certificate_file: str, private_key_file: str) -> dict[str, Any]:
    return {
        "resources": [
            {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "name": name,
                "tls_certificate": {
                    "certificate_chain": {"filename": certificate_file},
                    "private_key": {"filename": private_key_file},
                    "watched_directory": {"path": posixpath.dirname(certificate_file)},
                },
            }
        ]
    }


def _endpoints(name: str, addresses: Sequence[HasAddress]) -> str:
    found = [{"socket_address": {"address": each.host, "port_value": each.port}} for each in addresses]
    assignment = {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}} for address in found]}],
    }
    return json.dumps(assignment)
