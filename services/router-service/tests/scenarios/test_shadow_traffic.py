"""Shadow traffic on real sockets: what clients get, what is recorded, and what a bad shadow pool does to requests."""

import concurrent.futures
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.servers.router_fleet import BIN, MODEL, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

CANARY, KEY = "xylophonequartz", "sk-live-zebra123"
PATIENT = {"connect_seconds": 5, "first_token_seconds": 30, "idle_seconds": 30, "total_seconds": 60}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        yield fleet


def add_router(fleet: Fleet, percent: float = 100.0, **sections: Any) -> RouterPart:
    """Start a router that copies requests of the pool `live` to the pool `next`."""
    rule = {
        "name": "all",
        "when": {},
        "route_to": "live",
        "shadow": {"pool": "next", "percent": percent},
    }
    (fleet.folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
    pools = {
        name: {"models": [MODEL], "backends": {name: {"url": engine.url}}}
        for name, engine in fleet.engines.items()
    }
    routing = {"default_pool": "live", "rules_file": "rules.yaml"}
    router = fleet.add_router(
        wait_usable=0, pools=pools, routing=routing, timeouts=PATIENT, **sections
    )  # the fleet's own wait is for another pool
    eventually(lambda: router.usable("live") == router.usable("next") == 1, "both pools are usable")
    return router


def lines(router: RouterPart, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in router.log_lines() if line.startswith("{")]
    return [line for line in found if line.get("event") == event]


def of_copies(router: RouterPart, name: str = "router_shadow_requests_total", **labels: str) -> float:
    return router.metric(name, pool="next", **labels)


def test_copies_are_recorded_apart_and_hold_no_text_and_no_key(fleet: Fleet) -> None:
    fleet.add_engine("live")
    fleet.add_engine("next")
    router = add_router(fleet)
    said = {"messages": [{"role": "user", "content": f"{CANARY} {CANARY}"}], "stream": True}
    ids = [f"request-{number}" for number in range(6)]
    for one in ids:
        headers = {"x-request-id": one, "x-client-id": "alice", "authorization": f"Bearer {KEY}"}
        assert router.post(headers=headers, **said).text.endswith("data: [DONE]\n\n")
    eventually(lambda: of_copies(router, outcome="ok") == 6, "six copies ended")
    eventually(lambda: len(lines(router, "shadow")) == 6, "six copies are logged")

    assert router.metric("router_requests_total") == 6
    assert router.metric("router_ttft_seconds_count") == 6
    assert router.metric("router_ttft_seconds_count", pool="next") == 0
    assert router.metric("router_tokens_total", pool="next") == 0
    assert router.metric("router_backend_requests_total", backend="next") == 0
    assert of_copies(router, "router_shadow_ttft_seconds_count") == 6
    assert len(lines(router, "request")) == 6

    record, copy = router.record(ids[0]), router.record(ids[0] + "-shadow")
    assert record["shadow"] == {"pool": "next", "request_id": ids[0] + "-shadow"}
    assert (copy["shadow_of"], copy["pool"], copy["client_id"], copy["rule"]) == (ids[0], "next", "", "all")
    assert copy["tokens"]["completion"] == record["tokens"]["completion"]
    assert copy["ttft_ledger_ms"]["edge"] is None
    listed = httpx.get(f"{router.url}/debug/decisions").json()["decisions"]
    assert sorted(one["request_id"] for one in listed) == ids
    own = {"x-client-id": "alice"}
    assert httpx.get(f"{router.url}/v1/requests/{ids[0]}", headers=own).status_code == 200
    for headers in (own, {}):
        answer = httpx.get(f"{router.url}/v1/requests/{ids[0]}-shadow", headers=headers)
        assert answer.status_code == 404

    explained = _command("explain", ids[0] + "-shadow", "--log", router.log)
    assert f"A copy of {ids[0]} (shadow of rule all)" in explained.stdout
    assert f"shadow pool next: {ids[0]}-shadow" in _command("explain", ids[0], "--url", router.url).stdout
    assert "6 requests: 6 as before" in _command("replay", "--config", router.command[-1], router.log).stdout
    compared = json.loads(_command("compare-pools", router.log, "live", "next", "--json").stdout)
    assert compared["b"] == {"pool": "next", "copies": 6}
    assert {"errors (share)", "first token p50 (ms)"} <= {one["name"] for one in compared["differences"]}
    everything = router.log.read_text() + router.exposition() + json.dumps([record, copy])
    assert CANARY not in everything
    assert KEY not in everything


def _command(*words: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [BIN / "router-service", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done


def test_dry_run_replay_and_the_request_agree_about_the_copy(fleet: Fleet) -> None:
    fleet.add_engine("live")
    fleet.add_engine("next")
    router = add_router(fleet, percent=30.0)
    copied = []
    for number in range(40):
        one = {"x-request-id": f"id-{number}"}
        planned = httpx.post(f"{router.url}/debug/decide", headers=one, json={"model": MODEL}).json()
        assert router.post(headers=one).status_code == 200
        assert router.record(f"id-{number}").get("shadow") == planned.get("shadow")
        if "shadow" in planned:
            copied.append(f"id-{number}")
            eventually(lambda: of_copies(router) == len(copied), "its copy ended")
    assert 4 < len(copied) < 24
    eventually(lambda: len(lines(router, "shadow")) == len(copied), "every copy is logged")
    assert [line["shadow_of"] for line in lines(router, "shadow")] == copied
    replayed = _command("replay", "--config", router.command[-1], router.log).stdout
    assert f"copied to the shadow pool next: {len(copied)} of 40 requests" in replayed


@pytest.mark.parametrize("state", ["dead", "frozen", "slow", "erring", "truncating"])
def test_a_bad_shadow_pool_costs_clients_nothing(fleet: Fleet, state: str) -> None:
    fleet.add_engine("live")
    shadow = fleet.add_engine("next", *(("--step-seconds", "3") if state == "slow" else ()))
    # Probed so seldom that the router still believes in the pool.
    router = add_router(
        fleet, limits={"shadow_slots": 3}, health={"interval_seconds": 600, "timeout_seconds": 0.5}
    )
    if state == "dead":
        shadow.kill()
    elif state == "frozen":
        shadow.freeze()
    elif state == "erring":
        shadow.fault("http_error", status=500)
    elif state == "truncating":
        shadow.fault("clean_truncation", after_chunks=3)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(
                lambda number: router.post(
                    headers={"x-request-id": f"id-{number}"}, stream=True, max_tokens=20
                ),
                range(60),
            )
        )
    assert [answer.status_code for answer in answers] == [200] * 60
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    for number in range(60):
        record = router.record(f"id-{number}")
        assert record["outcome"] == "ok"
        assert record["queue_position"] is None
        assert record["ttft_ledger_ms"]["router_queue"] == 0
        assert len(record["attempts"]) == 1
    if state in ("frozen", "slow"):
        assert of_copies(router, "router_shadow_left_out_total", because="no_slot") >= 57 - 3
    else:
        ended = "truncated" if state == "truncating" else "upstream_error"
        eventually(lambda: of_copies(router, outcome=ended) > 0, "copies fail")
        assert router.metric("router_backend_failed_attempts_total", backend="next") == 0
        assert router.metric("router_backend_rejected", backend="next") == 0, "its breaker is closed"
    if state == "frozen":
        shadow.thaw()


def test_a_terminated_router_drops_its_copies_at_once(fleet: Fleet) -> None:
    fleet.add_engine("live")
    shadow = fleet.add_engine("next", "--step-seconds", "0.2")
    router = add_router(fleet)
    assert router.post(max_tokens=200).status_code == 200
    eventually(lambda: shadow.under_way() == 1, "the copy runs on, after its request")
    assert router.process is not None
    router.process.send_signal(signal.SIGTERM)
    eventually(lambda: shadow.under_way() == 0, "the engine sees the end")
    assert router.process.wait(20) == 0
    (copy,) = lines(router, "shadow")
    assert (copy["outcome"], copy["detail"]) == ("cancelled", "the router is shutting down")


def test_a_client_that_leaves_ends_the_copy(fleet: Fleet) -> None:
    live = fleet.add_engine("live", "--step-seconds", "0.2")
    shadow = fleet.add_engine("next", "--step-seconds", "0.2")
    router = add_router(fleet)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 300}
    with httpx.stream(
        "POST",
        f"{router.url}/v1/chat/completions",
        json={**body, "stream": True, "ignore_eos": True},
        timeout=30,
    ) as answer:
        pieces = answer.iter_bytes()  # kept, because its end closes the connection
        next(pieces)
        eventually(lambda: shadow.under_way() == 1, "the copy runs")
    eventually(lambda: live.under_way() == shadow.under_way() == 0, "both end")
    eventually(lambda: of_copies(router, outcome="cancelled") == 1, "the copy is counted")
