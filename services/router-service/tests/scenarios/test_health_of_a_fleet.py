"""Backends that freeze, fail, refuse, flap and restart: which backends get requests, and what clients see."""

import collections
import concurrent.futures
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.ports import free_port
from harness.servers.router_fleet import MODEL, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        yield fleet


def slow_health(seconds: float = 3600.0) -> dict[str, float]:
    """Probes are so rare that only requests can detect the failure."""
    return {"interval_seconds": seconds, "timeout_seconds": 0.5}


def test_a_frozen_engine_costs_one_timeout_and_is_then_left_out(fleet: Fleet) -> None:
    frozen, _ = fleet.add_engine("engine-a"), fleet.add_engine("engine-b")
    router = fleet.add_router(breaker={"failures": 1, "open_seconds": 10}, health={"interval_seconds": 0.5})
    frozen.freeze()
    began = time.monotonic()
    answers = [router.post(stream=True) for _ in range(6)]
    probes = (time.monotonic() - began) // 10  # one more attempt whenever the breaker lets a probe through
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.headers["x-route-backend"] for answer in answers} == {"engine-b"}
    eventually(lambda: router.usable() == 1, "the frozen engine is out")
    outcomes = [
        attempt["outcome"]
        for answer in answers
        for attempt in router.record(answer.headers["x-request-id"])["attempts"]
        if attempt["backend"] == "engine-a"
    ]
    assert len(outcomes) <= 1 + probes, "only the first attempt at the frozen engine waited"
    assert set(outcomes) <= {"first_token_timeout"}
    frozen.thaw()
    eventually(lambda: router.usable() == 2, "the engine is back", 30)


def test_an_engine_frozen_mid_stream_ends_with_one_error_event(fleet: Fleet) -> None:
    engine = fleet.add_engine("engine-a", "--step-seconds", "0.05")
    router = fleet.add_router()
    body = {
        "model": MODEL, "stream": True, "max_tokens": 400, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }  # fmt: skip
    text = b""
    with (
        httpx.Client(timeout=30) as http,
        http.stream("POST", f"{router.url}/v1/chat/completions", json=body) as answer,
        contextlib.suppress(httpx.RemoteProtocolError),  # the answer has no end, and must not have one
    ):
        for piece in answer.iter_raw():
            if not text:
                engine.freeze()
                frozen_at = time.monotonic()
            text += piece
        pytest.fail("the stream ended as if it were whole")
    assert time.monotonic() - frozen_at > 1.0
    attempts = router.record(answer.headers["x-request-id"])["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["idle_timeout"]
    assert text.count(b'"error"') == 1
    assert b"[DONE]" not in text
    engine.thaw()
    eventually(lambda: router.metric("router_in_flight") == 0, "nothing is in flight")


def test_fifty_bad_requests_count_against_nobody(fleet: Fleet) -> None:
    fleet.add_engine("engine-a", "--max-model-len", "64")
    router = fleet.add_router()
    too_long = [{"role": "user", "content": "word " * 500}]
    direct = httpx.post(
        f"{fleet.engines['engine-a'].url}/v1/chat/completions",
        json={"model": MODEL, "messages": too_long, "max_tokens": 2, "ignore_eos": True},
    )
    assert direct.status_code == 400
    for _ in range(50):
        answer = router.post(messages=too_long)
        assert (answer.status_code, answer.json()) == (400, direct.json())
        assert answer.headers["x-route-attempts"] == "1"
    assert router.metric("router_backend_rejected") == 0
    assert router.usable() == 1
    assert router.post().status_code == 200


def test_a_breaker_opens_lets_one_request_probe_and_closes(fleet: Fleet) -> None:
    bad, _ = fleet.add_engine("engine-a"), fleet.add_engine("engine-b")
    router = fleet.add_router(
        breaker={"failures": 3, "open_seconds": 5, "slow_start_seconds": 0}, health=slow_health()
    )
    bad.fault("http_error", status=503)
    for _ in range(12):
        assert router.post().status_code == 200
    assert bad.hits("http_error") == 3, "it opened after three failures in a row"
    assert router.metric("router_backend_rejected", backend="engine-a", because="breaker_open") == 1
    # While it is open nobody goes there; when its time is over exactly one of many does.
    time.sleep(5.1)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        codes = [answer.status_code for answer in threads.map(lambda _: router.post(), range(8))]
    assert codes == [200] * 8
    assert bad.hits("http_error") == 4, "one probe"
    bad.heal()
    time.sleep(5.1)

    def recovered() -> bool:
        assert router.post().status_code == 200
        return router.metric("router_backend_rejected", backend="engine-a", because="breaker_open") == 0

    eventually(recovered, "the probe succeeds and the breaker closes")
    backends = collections.Counter(router.post().headers["x-route-backend"] for _ in range(10))
    assert backends["engine-a"] >= 3


def test_a_model_that_nobody_can_serve_now_is_not_an_unknown_model(fleet: Fleet) -> None:
    engine = fleet.add_engine("engine-a")
    old = fleet.add_router()
    engine.end()
    eventually(lambda: old.usable() == 0, "nobody is usable")
    fresh = fleet.add_router(wait_usable=0)
    for router in (old, fresh):
        answer = router.post()
        assert answer.status_code == 503
        record = router.record(answer.headers["x-request-id"])
        assert record["queue_position"] is None, "nobody waits for a line that does not move"
        print(f"refused after {record['total_ms']} ms")
        assert int(answer.headers["retry-after"]) >= 1
        assert router.post(model="unheard-of").status_code == 404
        assert router.post(model="unheard-of").json()["error"]["code"] == "model_not_found"
        assert httpx.get(f"{router.url}/readyz").status_code == 200


def test_models_are_those_that_can_be_served_now(fleet: Fleet) -> None:
    fleet.add_engine("engine-a")
    other = fleet.add_engine("engine-b")
    pools = {
        "general": {"models": [MODEL], "aliases": {"gpt-small": MODEL},
                    "backends": {"engine-a": {"url": fleet.engines["engine-a"].url}}},
        "other": {"models": ["other-model"], "backends": {"engine-b": {"url": other.url}}},
    }  # fmt: skip
    router = fleet.add_router(wait_usable=1, pools=pools)

    def listed() -> set[str]:
        answer = httpx.get(f"{router.url}/v1/models")
        assert answer.status_code == 200
        return {model["id"] for model in answer.json()["data"]}

    eventually(lambda: listed() == {MODEL, "gpt-small", "other-model"}, "all are listed")
    other.end()
    eventually(lambda: listed() == {MODEL, "gpt-small"}, "the model that nobody serves is left out")
    assert httpx.get(f"{router.url}/v1/models/{MODEL}").json()["id"] == MODEL
    assert httpx.get(f"{router.url}/v1/models/unheard-of").status_code == 404
    assert httpx.get(f"{router.url}/v1/models/").status_code in (200, 307, 404)
    fleet.engines["engine-a"].end()
    eventually(lambda: listed() == set(), "none can be served")


def test_a_backend_that_comes_back_gets_its_share_slowly(fleet: Fleet) -> None:
    # Answers take a second, so that a slow machine too has as many under way as the share of a tenth needs.
    for name in ("engine-a", "engine-b", "engine-c", "engine-d"):
        fleet.add_engine(name, "--step-seconds", "0.1")
    router = fleet.add_router(
        breaker={"failures": 3, "open_seconds": 1, "slow_start_seconds": 120},
        limits={"max_in_flight_per_backend": 20},
    )
    flapping = [fleet.engines["engine-a"], fleet.engines["engine-b"]]
    for engine in flapping:
        engine.fault("health_lies")
    eventually(lambda: router.usable() == 2, "two are out")

    def load(count: int) -> collections.Counter[str]:
        with concurrent.futures.ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(lambda _: router.post(max_tokens=10), range(count)))
        assert {answer.status_code for answer in answers} == {200}
        return collections.Counter(answer.headers["x-route-backend"] for answer in answers)

    assert load(48).keys() == {"engine-c", "engine-d"}
    for engine in flapping:
        engine.heal()
    eventually(lambda: router.usable() == 4, "all are back")
    soon = load(48)
    back = soon["engine-a"] + soon["engine-b"]
    assert 0 < back < 0.4 * sum(soon.values()), f"no herd on the engines that came back: {soon}"


def uses(router: RouterPart, url: str) -> bool:
    backends = httpx.get(f"{router.url}/debug/backends").json()["backends"]
    return url in {backend["url"] for backend in backends}


def test_a_restart_on_the_same_address_waits_for_health_and_a_new_address_gets_no_old_pin(
    fleet: Fleet,
) -> None:
    fleet.add_redis()
    for name in ("engine-a", "engine-b"):
        fleet.add_engine(name)
    router = fleet.add_router()
    session = {"x-session-id": "s-1"}
    home = router.post(headers=session).headers["x-route-backend"]
    engine = fleet.engines[home]
    engine.kill()
    moved = router.post(headers=session)
    assert moved.status_code == 200
    assert moved.headers["x-route-backend"] != home
    eventually(lambda: router.usable() == 1, "the dead engine is out")
    engine.start()
    eventually(lambda: router.usable() == 2, "it is back on its address")
    assert router.post(headers=session).status_code == 200
    # The same name at another address: the old address is never used again.
    old = engine.url
    engine.end()
    fleet.add_engine(home, port=free_port())
    fleet.rewrite(router)
    eventually(lambda: uses(router, fleet.engines[home].url), "the new address is used", 20)
    eventually(lambda: router.usable() == 2, "and is healthy", 20)
    assert fleet.engines[home].url != old
    answers = [router.post(headers={"x-session-id": f"s-{n}"}) for n in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-route-attempts"] for answer in answers} == {"1"}


def test_one_replicas_finding_makes_the_other_look_and_its_bad_network_ejects_nobody(fleet: Fleet) -> None:
    fleet.add_redis()
    fleet.add_engine("engine-a")
    fleet.add_engine("engine-b")
    # The second replica looks by itself once an hour.
    first = fleet.add_router()
    second = fleet.add_router(health=slow_health())
    fleet.engines["engine-a"].kill()
    eventually(lambda: first.usable() == 1, "the first found it")
    eventually(lambda: second.usable() == 1, "the second was told to look, long before its interval")
    assert second.metric("router_probe_hints_total", direction="heard") >= 1
    assert second.metric("router_attempts_total") == 0, "no request had to fail for it"
    # A replica that cannot reach a healthy engine says so; the others look and keep it.
    wrong = {"general": {"models": [MODEL], "backends": {
        "engine-b": {"url": fleet.engines["engine-b"].url, "health_url": f"http://127.0.0.1:{free_port()}/"}}}}  # fmt: skip
    heard = second.metric("router_probe_hints_total", direction="heard")
    blind = fleet.add_router(wait_usable=0, pools=wrong)
    assert blind.usable() == 0
    answer = second.post()
    assert answer.status_code == 200
    assert second.usable() == 1
    assert heard <= second.metric("router_probe_hints_total", direction="heard")
