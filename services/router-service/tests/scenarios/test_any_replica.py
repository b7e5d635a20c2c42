"""Three real routers behind one real edge: any of them explains every request, or reports who could not be queried."""

import contextlib
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.ports import free_port
from harness.servers.edges import CLIENT_KEY, LOAD_KEY, WIDE, Edge, running_edge
from harness.servers.router_fleet import BIN, MODEL, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service

REQUESTS = 300
PEER_SECONDS = 0.5
MOST_SECONDS = 1.0
"""For each answer about a request."""

REPEATS = 2
"""Further attempts of a late answer: the machine of a test may stand still for a second."""

PATIENT = {"connect_seconds": 5, "first_token_seconds": 30, "idle_seconds": 30, "total_seconds": 60}
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, "ignore_eos": True}


def three_routers(fleet: Fleet, **more: object) -> list[RouterPart]:
    """Start three routers that know each other's addresses."""
    ports = [free_port() for _ in range(3)]
    peers = {"urls": [f"http://127.0.0.1:{port}" for port in ports], "timeout_seconds": PEER_SECONDS, **more}
    return [fleet.add_router(port=port, peers=peers, timeouts=PATIENT) for port in ports]


@contextlib.contextmanager
def platform_in(folder: Path) -> Iterator[tuple[Fleet, Edge]]:
    """Start two engines, three routers and one edge."""
    (folder / "edge").mkdir()
    with fleet_in(folder) as fleet:
        fleet.add_engine("one")
        fleet.add_engine("two")
        routers = three_routers(fleet)
        settings = {
            "router": {"replicas": [{"host": "127.0.0.1", "port": each.port} for each in routers]},
            "limits": {"default": WIDE},
        }
        with running_edge(folder / "edge", routers[0].port, settings) as edge:
            yield fleet, edge


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Edge]]:
    with platform_in(tmp_path_factory.mktemp("replicas")) as started:
        yield started


ASKER = httpx.Client(timeout=10)


def about(router: RouterPart, request_id: str, dead: int = 0) -> tuple[httpx.Response, float]:
    """Return a router's answer about a request, and its seconds.

    It is read again if it was late, or if more replicas than the ``dead`` ones gave no response in time.
    """
    for _ in range(1 + REPEATS):
        answer, took = _timed(router, request_id)
        silent = answer.text.count("http://") if answer.status_code == 404 else 0
        if took < MOST_SECONDS and silent <= dead:
            break
    return answer, took


def _timed(router: RouterPart, request_id: str) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = ASKER.get(f"{router.url}/debug/decisions/{request_id}")
    return answer, time.monotonic() - began


def replica_of(answer: httpx.Response, request_id: str) -> str:
    """Return the replica that a found record names."""
    assert answer.status_code == 200, answer.text
    record = answer.json()
    assert record["request_id"] == request_id
    assert record["replica"] == answer.headers["x-route-replica"]
    return str(record["replica"])


def explained(router: RouterPart, request_id: str) -> tuple[str, float]:
    answer, took = about(router, request_id)
    return replica_of(answer, request_id), took


def handled(edge: Edge) -> dict[str, str]:
    """Send requests; return the id of each with the replica that handled it."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: edge.post(BODY), range(REQUESTS)))
    assert Counter(answer.status_code for answer in answers) == {200: REQUESTS}
    found = {answer.headers["x-request-id"]: answer.headers["x-route-replica"] for answer in answers}
    assert len(found) == REQUESTS
    assert len(set(found.values())) == 3, "every router must have handled some"
    return found


def in_time(times: list[float]) -> None:
    p99 = sorted(times)[int(len(times) * 0.99)]
    print(f"{len(times)} answers, p99 {p99:.3f} s, slowest {max(times):.3f} s")
    assert max(times) < MOST_SECONDS


def test_each_router_explains_every_request_in_a_second(platform: tuple[Fleet, Edge]) -> None:
    fleet, edge = platform
    times = []
    for request_id, replica in handled(edge).items():
        for router in fleet.routers:
            found, took = explained(router, request_id)
            assert found == replica
            times.append(took)
    in_time(times)


def test_with_a_dead_replica_every_answer_says_so_in_a_second(tmp_path: Path) -> None:
    """The living replicas explain their requests, and name the dead one where only it could have the record."""
    with platform_in(tmp_path) as (fleet, edge):
        known = handled(edge)
        dead, *living = fleet.routers
        dead.kill()
        gone, times = 0, []
        for request_id, replica in known.items():
            lost = replica.endswith(f":{dead.port}")
            gone += lost
            for router in living:
                answer, took = about(router, request_id, dead=1)
                times.append(took)
                if lost:
                    assert answer.status_code == 404
                    told = rf"no response from .*http://127\.0\.0\.1:{dead.port} \("
                    assert re.search(told, answer.json()["error"]["message"]), answer.text
                else:
                    assert replica_of(answer, request_id) == replica
        print(f"{gone} of {REQUESTS} ids were the dead replica's")
        in_time(times)


def test_the_command_explains_a_request_of_another_replica(platform: tuple[Fleet, Edge]) -> None:
    fleet, edge = platform
    answer = edge.post(BODY)
    for router in fleet.routers:
        done = subprocess.run(
            [BIN / "router-service", "explain", answer.headers["x-request-id"], "--url", router.url],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"Router replica {answer.headers['x-route-replica']} handled it." in done.stdout


def test_a_request_that_the_edge_refused_is_explained_from_its_log(platform: tuple[Fleet, Edge]) -> None:
    fleet, edge = platform
    for answer, why in (
        (edge.post(BODY, key="sk-wrong-0123456789abcdef0123456789"), "status 401: "),
        (edge.post({**BODY, "temperature": "hot"}), "field temperature."),
    ):
        request_id = answer.headers["x-request-id"]
        edge.access_line(request_id)
        done = subprocess.run(
            [BIN / "router-service", "explain", request_id, "--url", fleet.routers[0].url, "--edge-log", edge.log],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "The edge refused it with status" in done.stdout
        assert why in done.stdout
        assert "No router has seen it." in done.stdout


def test_a_running_request_is_found_with_what_it_waits_for(platform: tuple[Fleet, Edge]) -> None:
    fleet, _ = platform
    for engine in fleet.engines.values():
        engine.fault("wedge")
    asker = threading.Thread(
        target=fleet.routers[0].post,
        kwargs={"stream": True, "headers": {"x-request-id": "held-one"}},
        daemon=True,
    )
    try:
        asker.start()

        def held() -> dict[str, object] | None:
            answer = httpx.get(f"{fleet.routers[1].url}/debug/decisions/held-one")
            record = answer.json()
            waiting = (
                answer.status_code == 200 and record.get("running", {}).get("waits_for") == "first_token"
            )
            return record if waiting else None

        record = eventually(held, "another router finds the running request")
        assert record["outcome"] is None
        assert record["running"]["backend"] in fleet.engines
        done = subprocess.run(
            [BIN / "router-service", "explain", "held-one", "--url", fleet.routers[2].url],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert re.search(r"It is still running, .* for the first token of (one|two)\.", done.stdout), done
    finally:
        for engine in fleet.engines.values():
            engine.heal()
        asker.join(30)


def test_a_client_reads_its_own_request_and_no_other(platform: tuple[Fleet, Edge]) -> None:
    fleet, edge = platform
    session = "session-canary-5522"
    body = {**BODY, "messages": [{"role": "user", "content": "prompt-canary-7711"}]}
    asked = edge.post(body, x_session_id=session).headers["x-request-id"]
    own = httpx.get(f"{edge.url}/v1/requests/{asked}", headers=edge.headers())
    assert own.status_code == 200, own.text
    found = own.json()
    assert found["id"] == asked
    assert found["outcome"] == "ok"
    assert found["tokens"]["completion"] == 1
    assert found["backend"] in fleet.engines
    assert found["summary"][0] == f"The request went to backend {found['backend']}."
    assert found["summary"][-1] == "The answer was complete."
    shown = own.text
    assert "canary" not in shown
    for secret in (
        "127.0.0.1",
        "candidates",
        "snapshot",
        CLIENT_KEY,
        "tester",
        *(str(r.port) for r in fleet.routers),
    ):
        assert secret not in shown
    foreign = httpx.get(f"{edge.url}/v1/requests/{asked}", headers=edge.headers(LOAD_KEY))
    unknown = httpx.get(f"{edge.url}/v1/requests/unknown", headers=edge.headers())
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert foreign.json()["error"]["message"] == unknown.json()["error"]["message"].replace("unknown", asked)
    assert httpx.get(f"{edge.url}/v1/requests/{asked}").status_code == 401
    # A client's own x-client-id counts for nothing.
    forged = {**edge.headers(LOAD_KEY), "x-client-id": "tester"}
    assert httpx.get(f"{edge.url}/v1/requests/{asked}", headers=forged).status_code == 404


def test_a_failed_requests_texts_stay_inside(platform: tuple[Fleet, Edge]) -> None:
    fleet, edge = platform
    for engine in fleet.engines.values():
        engine.fault("die_mid_stream", after_chunks=2)
    body = {**BODY, "stream": True, "max_tokens": 50}
    try:
        with (
            contextlib.suppress(httpx.RemoteProtocolError),
            httpx.stream(
                "POST", f"{edge.url}/v1/chat/completions", json=body, headers=edge.headers()
            ) as answer,
        ):
            answer.read()
    finally:
        for engine in fleet.engines.values():
            engine.heal()
    record = fleet.routers[0].record(answer.headers["x-request-id"])
    own = httpx.get(f"{edge.url}/v1/requests/{record['request_id']}", headers=edge.headers())
    assert own.json()["outcome"] == record["outcome"] == "truncated"
    assert "The answer was cut off: its backend failed after the answer had begun." in own.json()["summary"]
    assert "127.0.0.1" not in own.text
    for attempt in record["attempts"]:
        assert not attempt.get("detail") or attempt["detail"] not in own.text


def test_replicas_that_give_no_answer_are_named(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("one")
        asked, dead, frozen = three_routers(fleet)
        dead.kill()
        frozen.freeze()
        try:
            began = time.monotonic()
            answer = httpx.get(f"{asked.url}/debug/decisions/nowhere", timeout=10)
            took = time.monotonic() - began
            # The data path is not involved: the asked router still answers.
            assert asked.post().status_code == 200
        finally:
            frozen.thaw()
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert "no record of nowhere" in message
    assert f"http://127.0.0.1:{dead.port} (" in message
    assert f"http://127.0.0.1:{frozen.port} (no answer in {PEER_SECONDS:g} s)" in message
    assert took >= PEER_SECONDS, "the frozen replica must have been waited for"


def test_replicas_behind_a_name_are_found(tmp_path: Path) -> None:
    """One address in this test: several replicas of one port need several hosts."""
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("one")
        other = fleet.add_router()
        asked = fleet.add_router(peers={"dns": "localhost", "port": other.port})
        request_id = other.post().headers["x-request-id"]
        assert explained(asked, request_id)[0].endswith(f":{other.port}")


def test_an_unknown_name_is_reported(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("one")
        asked = fleet.add_router(peers={"dns": "routers.invalid"})
        answer = httpx.get(f"{asked.url}/debug/decisions/nowhere", timeout=10)
    assert answer.status_code == 404
    assert "no response from routers.invalid (" in answer.json()["error"]["message"]
