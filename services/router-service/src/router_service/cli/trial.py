"""Dry runs on a configuration alone: every backend counts as ready and idle."""

import time
from collections.abc import Mapping
from typing import Any

from router_service.config import RouterConfig
from router_service.pipeline.headers import safe_name
from router_service.records.record import DecisionRecord
from router_service.records.trial import decide_idle
from router_service.routing.decision import Decision


def try_request(
    config: RouterConfig,
    body: Mapping[str, Any],
    *,
    path: str,
    headers: Mapping[str, str],
    client_id: str,
) -> tuple[DecisionRecord, Decision]:
    """Decide ``body`` by ``config``. A pool that discovers its backends has one, called after it.

    A body without a model asks for the first model of the default pool.
    """
    values = config.values
    backends = {
        name: {backend: b.url for backend, b in pool.backends.items()}
        if pool.backends
        else {f"{name}/discovered": ""}
        for name, pool in values.pools.items()
    }
    if "model" not in body:
        body = {"model": values.pools[values.routing.default_pool].models[0], **body}
    lower = {name.lower(): value for name, value in headers.items()}
    session = safe_name(lower.get(values.affinity.header, "").encode("latin-1", "replace"))
    return decide_idle(
        config.policy,
        backends,
        body,
        path=path,
        headers=lower,
        client_id=client_id or lower.get("x-client-id", ""),
        session_id=session,
        now=time.time(),
    )
