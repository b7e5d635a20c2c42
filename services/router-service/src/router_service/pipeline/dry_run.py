"""Decides a request by the live state without sending it; changes nothing."""

from collections.abc import Mapping
from time import perf_counter, time
from typing import Any

from router_service.pipeline.fleet import Fleet
from router_service.pipeline.settings import Settings
from router_service.records.record import DecisionRecord
from router_service.routing.decide import decide
from router_service.routing.features import extract_features
from router_service.routing.snapshot import Snapshot


def dry_run(
    settings: Settings, fleet: Fleet, body: Mapping[str, Any], path: str, headers: Mapping[str, str]
) -> dict[str, Any]:
    """The decision record such a request would begin with. ``headers`` has lower-case names."""
    now = perf_counter()
    features = extract_features(
        body,
        path,
        headers,
        client_id=headers.get("x-client-id", ""),
        request_id="dry-run",
        session_id=headers.get(settings.session_header.decode("ascii"), ""),
        needs=settings.policy.needs,
    )
    fleet.refresh(now)
    decision = decide(features, Snapshot(fleet.pools), settings.policy, now)
    features.headers = None
    features.user_text = None
    record = DecisionRecord("dry-run", path, time(), settings.policy.hash)
    record.features = features
    record.decide_ms = (perf_counter() - now) * 1e3
    record.decided(decision, "")
    return record.as_dict(whole=True)
