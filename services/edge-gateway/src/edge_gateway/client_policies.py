"""Envoy configuration of a client's rate limit and of the web pages that may read responses. Must not know
routes.
"""

import math
from typing import Any

from edge_gateway.client_limits import ClientLimits
from edge_gateway.settings import Cors, Settings

API = "type.googleapis.com/envoy.extensions.filters.http"


def duration(value: float) -> str:
    """Return seconds in Envoy's format: ``2.5s``."""
    return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


def rate_buckets(settings: Settings) -> dict[str, Any]:
    """Return the filter configuration that enforces every client's rate."""
    limits = settings.limits
    named = [
        {"entries": [{"key": "client", "value": name}], "token_bucket": _bucket(client)}
        for name, client in sorted(limits.clients.items())
    ]
    every = {"numerator": 100, "denominator": "HUNDRED"}
    return {
        "@type": f"{API}.local_ratelimit.v3.LocalRateLimit",
        "stat_prefix": "client_rate",
        # Never used: every request that reaches this filter has a client.
        "token_bucket": _bucket(limits.default),
        "always_consume_default_token_bucket": False,
        "filter_enabled": {"runtime_key": "edge.client_rate.enabled", "default_value": every},
        "filter_enforced": {"runtime_key": "edge.client_rate.enforced", "default_value": every},
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "max_dynamic_descriptors": limits.max_unnamed_clients,
        "rate_limits": [
            {"actions": [{"request_headers": {"header_name": "x-client-id", "descriptor_key": "client"}}]}
        ],
        # A descriptor without a value applies to every client without an entry.
        "descriptors": [*named, {"entries": [{"key": "client"}], "token_bucket": _bucket(limits.default)}],
    }


def cors_policy(cors: Cors) -> dict[str, Any]:
    """Return the policy for the origins that may read responses."""
    return {
        "@type": f"{API}.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in cors.allow_origins],
        "allow_methods": "GET, POST",
        # A wildcard matches every header except authorization.
        "allow_headers": "authorization, *",
        "expose_headers": "x-request-id, request-id, retry-after, x-ratelimit-limit, x-ratelimit-remaining",
        "max_age": str(cors.max_age_seconds),
        "forward_not_matching_preflights": False,
    }


def _bucket(limits: ClientLimits) -> dict[str, Any]:
    # Envoy needs whole tokens and intervals of at least 50 ms: use the smallest pair with the given rate.
    tokens = max(1, math.ceil(limits.requests_per_second * 0.05))
    return {
        "max_tokens": max(limits.burst, tokens),
        "tokens_per_fill": tokens,
        "fill_interval": duration(math.ceil(tokens / limits.requests_per_second * 1e6) / 1e6),
    }
