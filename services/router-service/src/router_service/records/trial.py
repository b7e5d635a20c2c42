"""A dry run: the same decision on backends that are all ready and idle, for rule tests and the command line."""

import uuid
from collections.abc import Mapping
from typing import Any

from router_service.records.record import DecisionRecord
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features, extract_features
from router_service.routing.policy import Policy
from router_service.routing.snapshot import BackendView, PoolView, Snapshot


def trial_record(
    features: Features, snapshot: Snapshot, policy: Policy, now: float
) -> tuple[DecisionRecord, Decision]:
    """Decide without sending, and record it as a real request would be. ``now`` is epoch seconds."""
    decision = decide(features, snapshot, policy, now)
    record = DecisionRecord(features.request_id, features.path, now, policy.hash)
    record.client_id = features.client_id
    record.features = features
    record.decided(decision)
    return record, decision


def idle_snapshot(backends: Mapping[str, Mapping[str, str]]) -> Snapshot:
    """All backends ready and without load. ``backends`` is pool -> backend name -> URL."""
    return Snapshot(
        {
            pool: PoolView(
                pool, [BackendView(name, pool, url, unusable=None) for name, url in members.items()]
            )
            for pool, members in backends.items()
        }
    )


def decide_idle(
    policy: Policy,
    backends: Mapping[str, Mapping[str, str]],
    body: Mapping[str, Any],
    *,
    path: str,
    headers: Mapping[str, str],
    client_id: str,
    session_id: str,
    now: float,
) -> tuple[DecisionRecord, Decision]:
    """Decide a request body on idle backends."""
    features = extract_features(
        body,
        path,
        headers,
        client_id=client_id,
        request_id=str(uuid.uuid5(uuid.NAMESPACE_OID, repr(sorted(body)))),
        session_id=session_id,
        needs=policy.needs,
    )
    return trial_record(features, idle_snapshot(backends), policy, now)
