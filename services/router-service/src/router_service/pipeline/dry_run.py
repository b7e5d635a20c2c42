"""Dry runs: decide a request without sending it. `dry_run` uses the live fleet, `dry_run_idle` only a
configuration.

Must not change the fleet, the session pins or the queues.
"""

import uuid
from collections.abc import Mapping
from time import perf_counter, time
from typing import Any

from router_service.config import RouterConfig
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline import headers as fields
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.headers import RawHeaders
from router_service.pipeline.sessions import SessionPins, decide_with_pin
from router_service.pipeline.settings import Settings
from router_service.pipeline.shadows import keeps_state
from router_service.records.record import DecisionRecord
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features, Sender, extract_features
from router_service.routing.policy import Policy
from router_service.routing.session_sources import SessionSources
from router_service.routing.shadowing import not_copied, noted, shadow_of
from router_service.routing.snapshot import BackendView, PoolView, Snapshot


async def dry_run(
    settings: Settings,
    fleet: Fleet,
    pins: SessionPins | None,
    body: Mapping[str, Any],
    path: str,
    headers: RawHeaders,
) -> dict[str, Any]:
    """Return the decision record with which this request would begin at this moment, including its session's
    pin.

    Raises:
        Excessive: ``body`` exceeds the limits of the prompt reader.
    """
    by_name = dict(headers)
    session_id, source = fields.session_of(by_name, settings.sessions.headers)
    asked_id = by_name.get(b"x-request-id")
    features = extract_features(
        body,
        path,
        fields.HeaderView(by_name),
        Sender(
            fields.safe_name(by_name.get(b"x-client-id")),
            fields.request_id(asked_id) if asked_id is not None else "dry-run",
            session_id,
            source,
        ),
        sources=settings.sessions,
        needs=settings.policy.needs,
    )
    now = perf_counter()
    fleet.refresh(now)
    snapshot = Snapshot(fleet.pools, whole=True)
    if features.session and pins is not None and settings.policy.affinity:
        decision, _ = await decide_with_pin(features, snapshot, settings.policy, now, pins)
    else:
        decision = decide(features, snapshot, settings.policy, now)
    record = _record(features, decision, settings.policy, body, time())
    record.decide_ms = (perf_counter() - now) * 1e3
    return record.as_dict(whole=True)


def dry_run_idle(
    config: RouterConfig,
    body: Mapping[str, Any],
    *,
    path: str,
    headers: Mapping[str, str],
    client_id: str,
) -> tuple[DecisionRecord, Decision]:
    """Decide ``body`` by ``config``, with every backend ready and idle.

    A pool that discovers its backends gets one backend, named after the pool. If ``body`` names no model, the
    first model of the default pool is used.

    Raises:
        Excessive: ``body`` exceeds the limits of the prompt reader.
    """
    values = config.values
    pools = {}
    for name, section in values.pools.items():
        urls = {backend: b.url for backend, b in (section.backends or {}).items()} or {
            f"{name}/discovered": ""
        }
        pools[name] = PoolView(
            name, [BackendView(backend, name, url, unusable=None) for backend, url in urls.items()]
        )
    if "model" not in body:
        body = {"model": values.pools[values.routing.default_pool].models[0], **body}
    lower = {name.lower(): value for name, value in headers.items()}
    sources = SessionSources.of([f"header:{values.affinity.header}", *values.affinity.sources])
    raw = {
        name.encode("latin-1", "replace"): value.encode("latin-1", "replace") for name, value in lower.items()
    }
    session_id, source = fields.session_of(raw, sources.headers)
    features = extract_features(
        body,
        path,
        lower,
        Sender(
            client_id or lower.get("x-client-id", ""),
            lower.get("x-request-id") or str(uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(body)))),
            session_id,
            source,
        ),
        sources=sources,
        needs=config.policy.needs,
    )
    now = time()
    decision = decide(features, Snapshot(pools), config.policy, now)
    return _record(features, decision, config.policy, body, now), decision


def _record(
    features: Features, decision: Decision, policy: Policy, body: Mapping[str, Any], now: float
) -> DecisionRecord:
    """Record a decision like a real request's, without the request's text; ``now`` is epoch seconds.

    Slots, the pool's load and the size of the body, which may leave a copy out, are not considered.
    """
    features.headers = None
    features.user_text = None
    record = DecisionRecord(features.request_id, features.path, now, policy.hash)
    record.client_id = features.client_id
    record.features = features
    record.decided(decision)
    shadow = shadow_of(decision, features.request_id)
    if shadow is not None:
        path = INFERENCE_PATHS.get(features.path)
        stateful = path is not None and keeps_state(path, body)
        because = not_copied(shadow, decision, features.model, policy, stateful=stateful)
        record.shadow = noted(shadow.pool, features.request_id, because)
    return record
