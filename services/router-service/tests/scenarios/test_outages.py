"""Engines that are killed, refuse or drain: the responses that clients get, and the number of requests to engines."""

import asyncio
import collections
import concurrent.futures
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, InternalServerError

from harness.judges.raw_streams import whole_body
from harness.judges.streamed_answers import Streamed, ask_streamed
from harness.servers.router_fleet import MODEL, Fleet, RouterPart, fleet_in
from harness.servers.scripted_engine import scripted_engine
from harness.servers.tcp_front import tcp_front
from harness.waiting import eventually
from router_service.config import load
from router_service.records.replay import decide_again

pytestmark = pytest.mark.service

LONG = {
    "model": MODEL,
    "max_tokens": 400,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "Hello"}],
}
PATIENT = {"connect_seconds": 5, "first_token_seconds": 60, "idle_seconds": 60, "total_seconds": 120}
RATE = 50
"""Calls a second during an outage, each with the retries of OpenAI's own package."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        yield fleet


def _ask_and_look_at_the_clock(router: RouterPart) -> tuple[Streamed, float]:
    return ask_streamed(router.url, "/v1/chat/completions", LONG), time.monotonic()


def test_a_killed_engine_ends_a_begun_stream_with_one_error_event_and_one_attempt(fleet: Fleet) -> None:
    engine = fleet.add_engine("engine-a", "--step-seconds", "0.05")
    router = fleet.add_router(timeouts=PATIENT)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        asked = threads.submit(_ask_and_look_at_the_clock, router)
        eventually(lambda: engine.under_way() == 1, "the engine works on it")
        time.sleep(0.3)
        killed = time.monotonic()
        engine.kill()
        answer, told = asked.result(30)
    print(f"told {told - killed:.3f} s after the engine died")
    assert told - killed <= 1.0, f"the client was told {told - killed:.3f} s after the engine died"
    assert [problem.split(":")[0] for problem in answer.problems] == [
        "error event", "broken off", "no [DONE]", "1 roles, 0 finish reasons",
    ]  # fmt: skip
    record = router.record(answer.headers["x-request-id"])
    assert record["outcome"] == "truncated"
    assert [attempt["outcome"] for attempt in record["attempts"]] == ["broken"]
    assert record["tokens"]["completion"] > 0
    assert router.metric("router_retries_total") == 0
    eventually(lambda: router.metric("router_in_flight") == 0, "nothing is in flight")


def test_an_engine_killed_before_its_first_byte_costs_the_client_nothing(fleet: Fleet) -> None:
    """All waiting requests are retried, even if they exceed the retry budget (a fifth of the running requests)."""
    count = 24
    victim = fleet.add_engine("engine-a")
    fleet.add_engine("engine-b", "--step-seconds", "0.5")
    router = fleet.add_router(timeouts=PATIENT)
    victim.fault("stall_first_byte", seconds=60)
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        body = {**LONG, "max_tokens": 3}
        asked = [threads.submit(ask_streamed, router.url, "/v1/chat/completions", body) for _ in range(count)]
        eventually(lambda: victim.hits("stall_first_byte") >= 8, "some wait at the silent engine")
        # The others end at the engine that works; those that wait are all that is under way then.
        eventually(
            lambda: router.metric("router_in_flight", backend="engine-b") == 0, "the others are done", 30
        )
        waiting = victim.hits("stall_first_byte")
        assert router.metric("router_in_flight", backend="engine-a") == waiting
        victim.kill()
        answers = [one.result(30) for one in asked]
    assert [answer.problems for answer in answers] == [[]] * count
    assert {answer.headers["x-route-backend"] for answer in answers} == {"engine-b"}
    records = [router.record(answer.headers["x-request-id"]) for answer in answers]
    assert sorted(len(record["attempts"]) for record in records) == [1] * (count - waiting) + [2] * waiting
    assert [record["tokens"]["completion"] for record in records] == [3] * count, "counted once"
    assert router.metric("router_retries_total") == waiting


def test_fifty_internal_errors_of_one_request_kind_eject_nobody(fleet: Fleet) -> None:
    """An engine that returns 500 for an impossible prompt is healthy; only statuses in `on_status` are failures."""
    engine = fleet.add_engine("engine-a")
    router = fleet.add_router()
    engine.fault("http_error", status=500)
    answers = [router.post() for _ in range(50)]
    assert [answer.status_code for answer in answers] == [500] * 50
    assert set(answers[0].json()["error"]) == {"message", "type", "param", "code"}
    assert engine.hits("http_error") == 50, "each was asked once"
    assert router.metric("router_backend_rejected") == 0
    engine.heal()
    assert router.post().status_code == 200


def full(seconds: float) -> Any:
    return pytest.param(seconds, marks=[pytest.mark.full, pytest.mark.timeout(300)])


async def _call_at_a_rate(url: str, seconds: float) -> "collections.Counter[bool]":
    """Clients of OpenAI's own package at ``RATE`` calls a second; whether each received a time for its retry."""
    told: collections.Counter[bool] = collections.Counter()

    async def call(api: AsyncOpenAI) -> None:
        with pytest.raises(InternalServerError) as refused:
            await api.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
        told["retry-after" in refused.value.response.headers] += 1

    began = time.monotonic()
    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as api,
        asyncio.TaskGroup() as calls,
    ):
        for number in range(int(seconds * RATE)):
            await asyncio.sleep(max(0.0, began + number / RATE - time.monotonic()))
            calls.create_task(call(api))
    return told


@pytest.mark.parametrize("seconds", [6, full(30)])
def test_an_outage_under_clients_that_retry_asks_the_engines_hardly_more_often(
    fleet: Fleet, seconds: float
) -> None:
    for name in ("engine-a", "engine-b"):
        fleet.add_engine(name).fault("http_error", status=503)
    router = fleet.add_router(breaker={"failures": 5, "open_seconds": 2, "slow_start_seconds": 0})
    told = asyncio.run(_call_at_a_rate(router.url, seconds))
    offered = router.metric("router_requests_total")
    attempts = router.metric("router_attempts_total")
    print(f"{told.total()} calls of the SDK, {offered:.0f} requests, {attempts:.0f} attempts at the engines")
    assert told == {True: seconds * RATE}, "every refusal says when to come back"
    assert offered == 3 * told.total(), "the SDK did retry, twice each"
    assert attempts <= 1.2 * offered + 3
    assert sum(engine.hits("http_error") for engine in fleet.engines.values()) == attempts
    for engine in fleet.engines.values():
        engine.heal()
    healed = time.monotonic()
    eventually(lambda: router.post().status_code == 200, "it recovers", 20)
    recovered = time.monotonic() - healed
    print(f"recovered within {recovered:.3f} s")
    assert recovered <= 5.0, f"it recovered {recovered:.3f} s after the engines did"


class Load:
    """Ten requests a second through ``port``, from a separate thread; ``statuses`` of their responses."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._stop = threading.Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            asked = []
            while not self._stop.wait(0.1):
                asked.append(threads.submit(self._ask))
            for one in asked:
                one.result()

    def stop(self) -> None:
        self._stop.set()

    def _ask(self) -> None:
        answer = httpx.post(self._url, json={**LONG, "max_tokens": 2}, timeout=30)
        self.statuses.append(answer.status_code)


@pytest.mark.parametrize("seconds", [8, full(20)])
def test_a_router_that_is_drained_finishes_its_streams_while_another_takes_the_rest(
    fleet: Fleet, seconds: int
) -> None:
    tokens = seconds * 50
    fleet.add_engine("engine-a", "--step-seconds", "0.02")
    one = fleet.add_router(timeouts=PATIENT, server={"settle_seconds": 2})
    two = fleet.add_router(timeouts=PATIENT, server={"settle_seconds": 2})
    with (
        tcp_front([one.port, two.port], "/readyz") as front,
        concurrent.futures.ThreadPoolExecutor(2) as threads,
    ):
        eventually(lambda: all(front.healthy.values()), "the front knows both")
        load = Load(front.port)
        loading = threads.submit(load.run)
        try:
            stream = threads.submit(
                ask_streamed, one.url, "/v1/chat/completions", {**LONG, "max_tokens": tokens}
            )
            eventually(lambda: one.metric("router_in_flight") >= 1, "the stream is under way")
            eventually(lambda: len(load.statuses) >= 5, "requests flow")
            assert one.process is not None
            os.kill(one.pid, signal.SIGTERM)
            told = time.monotonic()
            eventually(lambda: not front.healthy[one.port], "it says that it is not ready")
            before = len(load.statuses)
            answer = stream.result(120)
            ran_on = time.monotonic() - told
            eventually(lambda: len(load.statuses) >= before + 10, "requests flow on")
        finally:
            load.stop()
        loading.result(60)
        assert one.process.wait(60) == 0
    print(f"the stream ran on for {ran_on:.1f} s after SIGTERM; {len(load.statuses)} requests meanwhile")
    assert ran_on >= seconds / 2, f"the stream had ended {ran_on:.1f} s after SIGTERM"
    assert answer.problems == []
    assert answer.usage is not None
    assert answer.usage["completion_tokens"] == tokens
    assert set(load.statuses) == {200}
    assert len(load.statuses) >= 4 * seconds, "the other router was asked all the time"
    assert '"event":"stopped"' in one.log.read_text()


def backend_of(record: dict[str, Any]) -> tuple[str, str, str, str]:
    return record["chosen"], record["pool"], record["rule"], record["reason"]


def test_dry_run_request_and_replay_agree(fleet: Fleet) -> None:
    """Pins included: a session goes to the dry run's backend, and its record replays to the same backend."""
    fleet.add_redis()
    for name in ("engine-a", "engine-b", "engine-c"):
        fleet.add_engine(name)
    (fleet.folder / "rules.yaml").write_text(
        "rules:\n"
        "  - {name: split, when: {any_keywords: [split]}, split_by: session_id,\n"
        "     route_to: [{pool: general, weight: 1}, {pool: other, weight: 1}]}\n"
        "  - {name: header, when: {header: {x-canary: 'yes'}}, route_to: other}\n"
    )
    backends = {name: {"url": engine.url} for name, engine in fleet.engines.items()}
    pools = {
        "general": {"models": [MODEL], "backends": {n: backends[n] for n in ("engine-a", "engine-b")}},
        "other": {"models": [MODEL], "backends": {"engine-c": backends["engine-c"]}},
    }
    router = fleet.add_router(
        wait_usable=2, pools=pools, routing={"default_pool": "general", "rules_file": "rules.yaml"}
    )
    eventually(lambda: router.usable("other") == 1, "all are usable")
    policy = load(Path(router.command[-1])).policy
    seen: collections.Counter[tuple[str, str, str, str]] = collections.Counter()
    for number in range(40):
        text = "please split" if number % 3 == 0 else "hello"
        body = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": text}]}
        headers = {"x-session-id": f"s{number % 7}"} if number % 2 else {"x-request-id": f"r{number}"}
        if number % 5 == 0:
            headers["x-canary"] = "yes"
        dry = httpx.post(f"{router.url}/debug/decide", json=body, headers=headers).json()
        answer = httpx.post(f"{router.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200
        real = router.record(answer.headers["x-request-id"])
        assert backend_of(dry) == backend_of(real), (dry, real)
        again = decide_again(real, policy)
        assert again.chosen is not None
        assert (again.chosen.name, again.pool, again.rule_name, again.reason) == backend_of(real)
        seen[backend_of(real)] += 1
    assert {one[1] for one in seen} == {"general", "other"}
    assert {one[2] for one in seen} == {"split", "header", "default"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bytes_out_are_bytes_in_however_an_engine_cuts_them(fleet: Fleet, seed: int) -> None:
    """Chunks of HTTP, events and TCP segments cut at random places, wide characters and CRLF included."""
    dice = random.Random(seed)
    print(f"seed {seed}")
    with scripted_engine() as engine:
        pools = {"general": {"models": [MODEL], "backends": {"raw": {"url": engine.url}}}}
        router = fleet.add_router(wait_usable=1, pools=pools)
        for _ in range(60):
            whole = _random_stream(dice)
            wire = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            for piece in _cut(dice, whole):
                wire += b"%x%b\r\n%b\r\n" % (len(piece), dice.choice([b"", b";a=b", b";q"]), piece)
            engine.script = [*_cut(dice, wire + b"0\r\n\r\n")]
            with socket.create_connection(("127.0.0.1", router.port), timeout=30) as connection:
                body = (
                    b'{"model": "%b", "stream": true, "stream_options": {"include_usage": true}}'
                    % MODEL.encode()
                )
                connection.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nconnection: close\r\n"
                    b"content-length: %d\r\n\r\n%b" % (len(body), body)
                )
                data = b""
                while piece := connection.recv(65536):
                    data += piece
            assert _events_and_comments(whole_body(data.split(b"\r\n\r\n", 1)[1])) == _events_and_comments(
                whole
            )


def _events_and_comments(stream: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return a stream's events and its comments, each in order. A comment may pass events that are held back."""
    pieces = [piece for piece in re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", stream) if piece]
    comments = [piece for piece in pieces if piece.startswith(b":")]
    return [piece for piece in pieces if piece not in comments], comments


def _random_stream(dice: random.Random) -> bytes:
    end = dice.choice([b"\n\n", b"\r\n\r\n"])
    events = []
    for _ in range(dice.randrange(1, 12)):
        text = "".join(
            dice.choice(["a", "é", "漢", "🎉", '\\"', " data: [DONE]", "\\n"])
            for _ in range(dice.randrange(12))
        )
        kind = dice.randrange(8)
        if kind == 0:
            events.append(b": comment " + text.replace('"', "").encode() + end)
        else:
            events.append(
                b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"%b"}}]}' % text.encode() + end
            )
    return (
        b"".join(events)
        + b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
        + end
        + b"data: [DONE]"
        + end
    )


def _cut(dice: random.Random, data: bytes) -> Iterator[bytes]:
    longest = dice.choice([1, 3, 40, 4000]) if len(data) < 3000 else 400
    while data:
        size = dice.randint(1, longest)
        yield data[:size]
        data = data[size:]


def test_a_reload_says_what_waits_for_a_restart_and_keeps_what_discovery_knows(fleet: Fleet) -> None:
    fleet.add_engine("engine-a")
    pools = {
        "general": {
            "models": [MODEL],
            "discover": {
                "dns": "localhost",
                "port": fleet.engines["engine-a"].port,
                "interval_seconds": 3600,
            },
        }
    }
    router = fleet.add_router(wait_usable=1, pools=pools)
    eventually(lambda: router.usable() >= 1, "the name was resolved")
    before = httpx.get(f"{router.url}/debug/backends").json()["backends"]
    fleet.rewrite(
        router,
        pools=pools,
        health={"interval_seconds": 0.2, "timeout_seconds": 0.7},
        limits={"queue_size": 3},
    )
    line = eventually(
        lambda: next((line for line in router.log_lines() if '"config_loaded"' in line), None),
        "it was loaded",
    )
    assert '"after_restart":["health.timeout_seconds"]' in line
    assert '"level":"warning"' in line
    after = httpx.get(f"{router.url}/debug/backends").json()["backends"]
    assert [b["url"] for b in after] == [b["url"] for b in before]
    assert router.post().status_code == 200
