"""Decides a request by the live state without sending it; changes nothing."""

from collections.abc import Mapping
from time import perf_counter, time
from typing import Any

from router_service.pipeline import headers as fields
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.headers import RawHeaders
from router_service.pipeline.sessions import SessionPins, decide_with_pin
from router_service.pipeline.settings import Settings
from router_service.records.record import DecisionRecord
from router_service.routing.decide import decide
from router_service.routing.features import extract_features
from router_service.routing.snapshot import Snapshot


async def dry_run(
    settings: Settings,
    fleet: Fleet,
    pins: SessionPins | None,
    body: Mapping[str, Any],
    path: str,
    headers: RawHeaders,
) -> dict[str, Any]:
    """The decision record such a request would begin with, its session's pin included."""
    by_name = dict(headers)
    asked_id = by_name.get(b"x-request-id")
    features = extract_features(
        body,
        path,
        fields.HeaderView(headers),
        client_id=fields.safe_name(by_name.get(b"x-client-id")),
        request_id=fields.request_id(asked_id) if asked_id is not None else "dry-run",
        session_id=fields.safe_name(by_name.get(settings.session_header)),
        needs=settings.policy.needs,
    )
    now = perf_counter()
    fleet.refresh(now)
    snapshot = Snapshot(fleet.pools)
    if features.session and pins is not None:
        decision, _ = await decide_with_pin(features, snapshot, settings.policy, now, pins)
    else:
        decision = decide(features, snapshot, settings.policy, now)
    features.headers = None
    features.user_text = None
    record = DecisionRecord(features.request_id, path, time(), settings.policy.hash)
    record.client_id = features.client_id
    record.features = features
    record.decide_ms = (perf_counter() - now) * 1e3
    record.decided(decision)
    return record.as_dict(whole=True)
