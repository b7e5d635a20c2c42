"""Memory of the process with a full ring of records."""

import psutil

from router_service.accounting.completion import log_text
from router_service.records.record import AttemptRecord, DecisionRecord
from router_service.records.ring import Ring
from router_service.routing.decide import decide
from router_service.routing.features import extract_features
from router_service.routing.policy import Policy, Pool
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import Outcome

RECORDS = 10_000
MOST_BYTES_EACH = 3_000
"""Text of 1.5 kB, its key and its place: a library's bytes that are larger than their text show here."""


def test_a_kept_record_takes_little_more_than_its_text() -> None:
    policy = Policy(pools={"a": Pool("a", "least_loaded", ("m",))}, rules=(), default_pool="a", hash="abc123")
    view = PoolView("a", [BackendView(f"engine-{n}", "a", "http://x", unusable=None) for n in range(4)])
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    features = extract_features(body, "/v1/chat/completions", {}, needs=policy.needs)
    decision = decide(features, Snapshot({"a": view}), policy, 0.0)
    ring = Ring(RECORDS)
    before = psutil.Process().memory_info().rss
    for number in range(RECORDS):
        record = DecisionRecord(f"request-{number}", features.path, 0.0, policy.hash)
        record.features = features
        record.decided(decision)
        record.attempts.append(AttemptRecord("engine-0", "complete", 200, 0.4, 41.0))
        record.ledger = {"edge": 1.0, "router": 2.0, "prefill": 40.0}
        record.outcome = Outcome.OK
        ring.add(record, log_text(record))
    each = (psutil.Process().memory_info().rss - before) / RECORDS
    assert len(ring) == RECORDS
    assert each < MOST_BYTES_EACH, f"{each:.0f} bytes"
