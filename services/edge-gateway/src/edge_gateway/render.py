"""Settings and credentials in, Envoy's files out. Starts nothing and asks nobody."""

import json
import math
import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import yaml

from edge_gateway.admission_rules import lua_prelude
from edge_gateway.local_replies import local_replies
from edge_gateway.settings import BadSettings, ClientLimits, Settings

ROUTES_FILE = "routes.yaml"
ENVOY_FILE = "envoy.yaml"

# The filter whose per-route configuration holds the digests of the API keys.
AUTHENTICATION = "edge.authentication"
CLIENTS_TABLE = "CLIENTS"

_API = "type.googleapis.com/envoy.extensions.filters.http"
_FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


@dataclass(frozen=True)
class Rendered:
    """The files of one edge by name. ``secret`` names those that hold credentials."""

    files: dict[str, str]
    secret: frozenset[str]

    def write(self, directory: Path) -> None:
        """Write every file atomically: Envoy watches the directory and never sees half a file."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            write_atomically(directory / name, text, 0o600 if name in self.secret else 0o644)


def write_atomically(path: Path, text: str, mode: int) -> None:
    """Replace ``path`` by a file that holds ``text``; a watcher sees the old or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    draft.replace(path)


def source_directory() -> Path:
    """Return the folder with the Envoy configuration's source (beside ``src``, or inside the wheel)."""
    packaged = Path(__file__).parent / "_envoy"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "envoy"


def render(
    settings: Settings,
    digests: Mapping[str, list[str]] | None,
    directory: Path,
    routes_file: Path | None = None,
) -> Rendered:
    """Return the files of an edge that will read them from ``directory``.

    ``digests`` are the SHA-256 of each client's API keys (hexadecimal).
    ``routes_file`` is where Envoy watches the route table, when that is mounted elsewhere (a Secret).

    Raises:
        BadSettings: API-key mode without any key.
    """
    return _Renderer(settings, digests, directory, routes_file).render()


class _Renderer:
    def __init__(
        self,
        settings: Settings,
        digests: Mapping[str, list[str]] | None,
        directory: Path,
        routes_file: Path | None,
    ) -> None:
        if settings.auth.mode == "api_keys" and not digests:
            raise BadSettings("no API key is configured; an edge without credentials does not start")
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
        self._environment.filters["duration"] = lambda seconds: f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
        self._environment.filters["dirname"] = posixpath.dirname
        self._environment.globals["endpoint"] = _endpoint

    def render(self) -> Rendered:
        files = {ENVOY_FILE: _dump(self._envoy()), ROUTES_FILE: _dump(self._routes())}
        files |= {name: _dump(document) for name, document in self._certificates().items()}
        return Rendered(files, frozenset({ROUTES_FILE}))

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
        manager["local_reply_config"] = local_replies(
            self._plain("local_replies.yaml"), self._settings.limits
        )
        filters = self._template("http_filters.yaml.j2")
        lua = next(entry for entry in filters if entry["name"] == "envoy.filters.http.lua")
        lua["typed_config"]["default_source_code"]["inline_string"] = self._admission()
        manager["http_filters"] = filters
        document["static_resources"] = {
            "listeners": [listener, self._template("telemetry_listener.yaml.j2")],
            "clusters": self._template("clusters.yaml.j2"),
        }
        return document

    def _admission(self) -> str:
        prelude = lua_prelude(self._paths, self._settings.bounds.max_body_bytes, self._settings.budgets)
        checks = (self._source / "lua" / "json_check.lua").read_text()
        return prelude + "\n" + checks + "\n" + (self._source / "lua" / "admission.lua").read_text()

    def _routes(self) -> dict[str, Any]:
        document: dict[str, Any] = self._template("routes.yaml.j2")
        host = document["resources"][0]["virtual_hosts"][0]
        host["typed_per_filter_config"] = self._per_client()
        host["routes"] = [
            *(route for entry in self._paths for route in self._routes_of(entry)),
            {
                "name": "/healthz",
                "match": {"path": "/healthz"},
                **_refusal(405, self._disabled(), allow="GET"),
            },
            {"name": "unknown", "match": {"prefix": "/"}, **_refusal(404, self._disabled())},
        ]
        return document

    def _per_client(self) -> dict[str, Any]:
        per_client: dict[str, Any] = {"envoy.filters.http.local_ratelimit": _buckets(self._settings)}
        if self._settings.auth.mode == "api_keys":
            per_client[AUTHENTICATION] = {
                "@type": f"{_API}.lua.v3.LuaPerRoute",
                "source_code": {"inline_string": self._authentication()},
            }
        return per_client

    def _authentication(self) -> str:
        clients = {digest: name for name, digests in self._digests.items() for digest in digests}
        lines = [f"local {CLIENTS_TABLE} = {{"]
        lines += [f"  [{json.dumps(digest)}] = {json.dumps(name)}," for digest, name in clients.items()]
        lua = self._source / "lua"
        return "\n".join(
            [*lines, "}", (lua / "sha256.lua").read_text(), (lua / "authentication.lua").read_text()]
        )

    def _disabled(self) -> dict[str, Any]:
        names = ["envoy.filters.http.local_ratelimit", "envoy.filters.http.lua"]
        if self._settings.auth.mode == "api_keys":
            names.append(AUTHENTICATION)
        if self._settings.budgets:
            names.append("envoy.filters.http.ratelimit")
        return {name: {"@type": _FILTER_CONFIG, "disabled": True} for name in names}

    def _routes_of(self, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
        name = entry.get("name") or entry["path"]
        where = {"path": entry["path"]} if "path" in entry else {"safe_regex": {"regex": entry["pattern"]}}
        times = self._settings.timeouts
        action: dict[str, Any] = {
            "cluster": "router",
            "retry_policy": {
                "retry_on": "connect-failure,reset-before-request",
                "num_retries": 1,
                "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.1s"},
                "retry_host_predicate": [
                    {
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3"
                            ".PreviousHostsPredicate"
                        },
                    }
                ],
                "host_selection_retry_max_attempts": 3,
            },
        }
        # An answer that is being generated has no deadline here, only a limit of silence: the router's
        # total_seconds is the deadline, and Envoy's default of 15 s would cut it with a status of 200.
        if "body" in entry:
            action |= {"timeout": "0s", "idle_timeout": _seconds(times.silent_answer_seconds)}
        else:
            action |= {"timeout": _seconds(times.short_request_seconds)}
        route: dict[str, Any] = {
            "name": name,
            "match": {**where, "headers": [{"name": ":method", "string_match": {"exact": entry["method"]}}]},
            "route": action,
        }
        if "body" in entry:
            limit = entry["body"].get("max_bytes", self._settings.bounds.max_body_bytes)
            route["request_body_buffer_limit"] = limit
        refused = {"name": name, "match": where, **_refusal(405, self._disabled(), allow=entry["method"])}
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

    def _jwks_endpoint(self) -> dict[str, Any] | None:
        jwt = self._settings.auth.jwt
        if jwt is None or jwt.jwks_url is None:
            return None
        url = urlsplit(jwt.jwks_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise BadSettings(f"auth.jwt.jwks_url: {jwt.jwks_url!r} is not an http(s) URL")
        tls = url.scheme == "https"
        return {"host": url.hostname, "port": url.port or (443 if tls else 80), "tls": tls}


def _buckets(settings: Settings) -> dict[str, Any]:
    limits = settings.limits
    named = [
        {"entries": [{"key": "client", "value": name}], "token_bucket": _bucket(client)}
        for name, client in sorted(limits.clients.items())
    ]
    every = {"numerator": 100, "denominator": "HUNDRED"}
    return {
        "@type": f"{_API}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "client_rate",
        # Never asked: every request that comes here has a client.
        "token_bucket": _bucket(limits.default),
        "always_consume_default_token_bucket": False,
        "filter_enabled": {"runtime_key": "edge.client_rate.enabled", "default_value": every},
        "filter_enforced": {"runtime_key": "edge.client_rate.enforced", "default_value": every},
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "max_dynamic_descriptors": limits.max_unnamed_clients,
        "rate_limits": [
            {"actions": [{"request_headers": {"header_name": "x-client-id", "descriptor_key": "client"}}]}
        ],
        # A descriptor without a value stands for every client that has no row of its own.
        "descriptors": [*named, {"entries": [{"key": "client"}], "token_bucket": _bucket(limits.default)}],
    }


def _bucket(limits: ClientLimits) -> dict[str, Any]:
    # Envoy takes whole tokens and intervals of at least 50 ms; the smallest pair that gives the rate.
    tokens = max(1, math.ceil(limits.requests_per_second * 0.05))
    return {
        "max_tokens": max(limits.burst, tokens),
        "tokens_per_fill": tokens,
        "fill_interval": _seconds(math.ceil(tokens / limits.requests_per_second * 1e6) / 1e6),
    }


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


def _endpoint(name: str, host: str, port: int) -> str:
    address = {"socket_address": {"address": host, "port_value": port}}
    assignment = {
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    }
    return json.dumps(assignment)


def _seconds(value: float) -> str:
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


class _Dumper(yaml.SafeDumper):
    """Writes scripts as blocks, so that a golden can be read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _dump(document: Any) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
