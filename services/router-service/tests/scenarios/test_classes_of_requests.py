"""Classes of requests on a real router: a flood of one class keeps no other class out of its slots."""

import concurrent.futures
import threading
from collections import Counter
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.service

SLOTS = 8


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {
        "limits": {"max_in_flight_per_backend": SLOTS // 2, "queue_size": 8, "queue_seconds": 10},
        "classes": {
            "interactive": {"share": 0.25, "service_tiers": ["priority"]},
            "batch": {"share": 0.25, "clients": ["nightly-*"], "priority": 10},
            "ruled": {},
        },
    }


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    condition = {"max_tokens_gte": 4000}
    return [{"name": "long", "when": condition, "route_to": "general", "request_class": "ruled"}]


def of_class(rig, metric: str, name: str) -> float:
    return rig.metric(metric, pool="general", **{"class": name})


@pytest.mark.parametrize(
    ("client", "fields", "name"),
    [
        ("web", {}, "default"),
        ("web", {"service_tier": "priority"}, "interactive"),
        ("web", {"service_tier": "unheard-of"}, "default"),
        ("nightly-7", {"service_tier": "priority"}, "batch"),
        ("nightly-7", {"max_tokens": 4000}, "ruled"),
    ],
)
def test_rule_then_client_then_service_tier_set_the_class(rig, client, fields, name) -> None:
    body = rig.body(**{"max_tokens": 1, **fields})
    decided = httpx.post(f"{rig.url}/debug/decide", json=body, headers={"x-client-id": client}, timeout=30)
    assert decided.json()["class"] == name
    if fields.get("max_tokens") is None:
        answer = rig.post(body, headers={"x-client-id": client})
        assert answer.status_code == 200
        record = rig.record(answer.headers["x-request-id"])
        assert record["class"] == name
        assert record["features"].get("service_tier", "") in ("", "priority")


def test_a_flood_of_one_class_takes_no_kept_slot_and_no_kept_place_in_the_queue(rig, eventually) -> None:
    ended = threading.Event()
    batch: list[tuple[int, str]] = []

    def flood(number: int) -> None:
        while not ended.is_set():
            headers = {"x-client-id": f"nightly-{number % 3}"}
            answer = rig.post(rig.body(stream=False, max_tokens=20), headers=headers)
            batch.append((answer.status_code, answer.headers["x-request-id"]))

    interactive = []
    with concurrent.futures.ThreadPoolExecutor(24) as threads:
        # The class has asked before: until it is idle for `lend_after_seconds` its slots are kept.
        rig.post(rig.body(max_tokens=1, service_tier="priority"))
        floods = [threads.submit(flood, number) for number in range(24)]
        try:
            eventually(lambda: rig.metric("router_queue_length") >= 6, "batch fills its queue")
            eventually(lambda: of_class(rig, "router_class_waiting", "batch") >= 6, "the class is counted")
            assert 1 <= of_class(rig, "router_class_running", "batch") <= SLOTS
            for _ in range(10):
                answer = rig.post(rig.body(max_tokens=2, service_tier="priority"))
                interactive.append((answer.status_code, answer.headers["x-request-id"]))
        finally:
            ended.set()
        for future in floods:
            future.result(60)
    assert {status for status, _ in interactive} == {200}
    records = [rig.record(request_id) for _, request_id in interactive]
    # With requests waiting it joins the queue of its class, and its own slots are free at once.
    assert [r["queue_position"] for r in records if r["queue_position"]] == []
    assert {name for r in records for name in r.get("went_ahead", {})} <= {"batch"}
    statuses = Counter(status for status, _ in batch)
    assert statuses[503] > 0, f"the flood was over the capacity: {statuses}"
    assert statuses[200] > 0
    assert set(statuses) <= {200, 503}
    waited = [rig.record(request_id) for status, request_id in batch if status == 200]
    assert any(r.get("went_ahead") for r in waited), "the record says who went ahead"
    assert of_class(rig, "router_class_started_total", "interactive") >= len(interactive)
    eventually(lambda: of_class(rig, "router_class_queue_seconds_total", "batch") > 0, "waits are added up")


def test_a_class_alone_uses_every_slot_after_the_others_are_idle(rig, eventually) -> None:
    connections = []
    try:
        for number in range(SLOTS):
            # Two clients: one alone may not take all slots while another one uses the pool.
            headers = f"x-client-id: nightly-{number % 2}\r\n"
            connections.append(rig.send(rig.body(max_tokens=900), headers=headers))
        eventually(lambda: rig.in_flight() == SLOTS, "batch borrows every slot", seconds=60)
    finally:
        for connection in connections:
            connection.close()
