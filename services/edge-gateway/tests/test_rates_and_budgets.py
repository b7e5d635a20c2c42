"""How much one client may ask: its rate, its tokens across all edges, and that others do not feel it."""

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.edges import (
    CHAT,
    CLIENT_KEY,
    GOOD_BODY,
    LOAD_KEY,
    WIDE,
    Edge,
    merged,
    running_edge,
    running_rate_limit_service,
    running_redis,
)
from harness.ports import free_port
from harness.recording_upstream import Manner, RecordingUpstream, recording_upstream

pytestmark = pytest.mark.service

OTHER_KEY = "sk-test-other-0123456789abcdef0123456789ab"
KEYS = {
    "tester": [CLIENT_KEY],
    "load": [LOAD_KEY],
    "other": [OTHER_KEY],
    "third": ["sk-third-0123456789abcdef"],
}
THIRD_KEY = KEYS["third"][0]
MINUTE = 60.0


async def together(edges: list[Edge], bodies: list[dict[str, Any]], key: str) -> list[httpx.Response]:
    """Send every body at the same time, in turn over the edges."""
    async with httpx.AsyncClient(timeout=30) as client:
        return await asyncio.gather(
            *(
                client.post(edges[number % len(edges)].url + CHAT, json=body, headers=edges[0].headers(key))
                for number, body in enumerate(bodies)
            )
        )


# The rate of one client in one edge.


def test_a_client_over_its_rate_is_told_when_to_come_back_and_others_are_not(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    limits = {"default": {"requests_per_second": 0.5, "burst": 5}, "clients": {"load": WIDE}}
    with running_edge(tmp_path, upstream.port, {"limits": limits}, KEYS) as edge:
        answers = [edge.post() for _ in range(20)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 10
        assert [answer.status_code for answer in answers[:5]] == [200] * 5
        assert upstream.count == 20 - len(refused)
        for answer in refused:
            assert answer.headers["x-ratelimit-limit"] == "5"
            assert answer.headers["x-ratelimit-remaining"] == "0"
            assert 1 <= int(answer.headers["retry-after"]) <= 10
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert edge.post(key=OTHER_KEY).status_code == 200, "every client has a bucket of its own"
        assert {edge.post(key=LOAD_KEY).status_code for _ in range(50)} == {200}
        time.sleep(float(refused[-1].headers["retry-after"]) + 0.5)
        assert edge.post().status_code == 200, "the answer said when, and then it must hold"


# Tokens, shared by all edges.

BUDGET = 1_000


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@contextlib.contextmanager
def budgeted(
    directory: Path, upstream_port: int, redis_port: int, over: dict[str, Any] | None = None, edges: int = 1
) -> Iterator[tuple[list[Edge], int]]:
    """Run a rate limit service and ``edges`` edges in front of it; yields them and the metrics port."""
    limits = {"default": {**WIDE, "tokens_per_minute": BUDGET}, "clients": {"load": WIDE}}
    settings = merged({"limits": limits, "budgets": {"timeout_seconds": 2.0}}, over or {})
    with contextlib.ExitStack() as stack:
        port, metrics = stack.enter_context(running_rate_limit_service(directory, settings, redis_port))
        settings = merged(settings, {"budgets": {"port": port}})
        running = [
            stack.enter_context(running_edge(directory / f"edge-{n}", upstream_port, settings, KEYS))
            for n in range(edges)
        ]
        yield running, metrics


def flush(redis_port: int) -> None:
    subprocess.run(["redis-cli", "-p", str(redis_port), "flushall"], check=True, capture_output=True)


def reserved_for(body: dict[str, Any]) -> int:
    """What the edge reserves for a body: a third of its bytes and the longest answer."""
    size = len(json.dumps(body, separators=(",", ":")).encode())
    return -(-size // 3) + int(body["max_tokens"]) * int(body.get("n", 1))


def test_a_burst_over_two_edges_cannot_overshoot_and_settles_with_what_was_used(
    tmp_path: Path, upstream: RecordingUpstream, redis_port: int
) -> None:
    flush(redis_port)
    upstream.manner = Manner(chunks=20, chunk_seconds=0.1, tokens="prompt=10,completion=20")
    body = {**GOOD_BODY, "stream": True, "max_tokens": 100}
    with budgeted(tmp_path, upstream.port, redis_port, edges=2) as (edges, metrics):
        started = time.monotonic()
        answers = asyncio.run(together(edges, [body] * 40, CLIENT_KEY))
        admitted = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        elapsed = time.monotonic() - started
        most = (BUDGET + BUDGET * elapsed / MINUTE) / reserved_for(body)
        print(f"{len(admitted)} of 40 admitted, {len(refused)} refused; at most {most:.1f} fit the budget")
        assert len(admitted) + len(refused) == 40
        assert 1 <= len(admitted) <= most
        assert upstream.count == len(admitted)
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["x-ratelimit-limit-tokens"] == str(BUDGET)
            assert answer.json()["error"]["code"] == "tokens_per_minute_exceeded"
            assert answer.headers["x-request-id"]
        for answer in admitted:
            assert answer.text.endswith("data: [DONE]\n\n")
        # 30 tokens each were really used: the rest of every reservation comes back.
        used = 30 * len(admitted)
        deadline = time.monotonic() + 10
        while settled(metrics) < len(admitted):
            assert time.monotonic() < deadline, "not every answer was settled"
            time.sleep(0.05)
        left = int(edges[0].post({**body, "max_tokens": 1}).headers["x-ratelimit-remaining-tokens"])
        total = BUDGET - used - reserved_for({**body, "max_tokens": 1})
        assert total <= left + 2
        assert left <= total + BUDGET * (time.monotonic() - started) / MINUTE + 2
        assert httpx.get(f"{edges[0].url}/v1/models", headers=edges[0].headers()).status_code == 200


def settled(metrics: int) -> int:
    text = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("rate_limit_settlements_total{")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if "unknown" not in line)


@pytest.fixture(scope="module")
def budget_edge(
    redis_port: int, module_upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    with budgeted(tmp_path_factory.mktemp("budget"), module_upstream.port, redis_port) as (edges, _):
        yield edges[0]


def remaining(answer: httpx.Response) -> int:
    return int(answer.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize(
    ("what", "manner", "cost"),
    [
        ("an answer that reports its tokens in the head", Manner(tokens="prompt=5,completion=6"), 11),
        ("an answer that failed in the router costs nothing", Manner(status=503), 0),
        ("an answer that reports nothing keeps its reservation", Manner(), None),
        ("an answer that used more than was reserved", Manner(tokens="prompt=400,completion=300"), 700),
    ],
)
def test_an_unstreamed_answer_is_settled(
    budget_edge: Edge,
    upstream: RecordingUpstream,
    redis_port: int,
    what: str,
    manner: Manner,
    cost: int | None,
) -> None:
    flush(redis_port)
    upstream.manner = manner
    body = {**GOOD_BODY, "max_tokens": 200}
    started = time.monotonic()
    first = budget_edge.post(body)
    assert first.status_code == manner.status
    time.sleep(0.3)
    second = budget_edge.post(body)
    charged_again = 0 if second.status_code == 429 else reserved(body)
    spent = BUDGET - remaining(second) - charged_again
    refilled = BUDGET * (time.monotonic() - started) / MINUTE
    expected = reserved(body) if cost is None else cost
    assert expected - refilled - 2 <= spent <= expected + 2, what


def reserved(body: dict[str, Any]) -> int:
    size = len(json.dumps(body).encode())
    return -(-size // 3) + int(body["max_tokens"])


def test_a_request_larger_than_the_whole_budget_is_told_not_to_retry(
    budget_edge: Edge, upstream: RecordingUpstream, redis_port: int
) -> None:
    flush(redis_port)
    answer = budget_edge.post({**GOOD_BODY, "max_tokens": 5_000})
    assert answer.status_code == 429
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["code"] == "request_exceeds_token_budget"
    assert upstream.count == 0


def test_several_choices_and_an_absent_limit_are_part_of_the_estimate(
    budget_edge: Edge, upstream: RecordingUpstream, redis_port: int
) -> None:
    flush(redis_port)
    assert budget_edge.post({**GOOD_BODY, "max_tokens": 100, "n": 10}).status_code == 429
    assert budget_edge.post(GOOD_BODY).status_code == 429, "no max_tokens: the assumed length is reserved"
    assert budget_edge.post({**GOOD_BODY, "max_tokens": 100, "n": 2}).status_code == 200


def test_a_client_without_a_budget_is_not_asked_about(budget_edge: Edge, upstream: RecordingUpstream) -> None:
    for _ in range(5):
        answer = budget_edge.post({**GOOD_BODY, "max_tokens": 100_000}, key=LOAD_KEY)
        assert answer.status_code == 200
        assert "x-ratelimit-limit-tokens" not in answer.headers


def test_requests_per_minute_hold_across_two_edges(
    tmp_path: Path, upstream: RecordingUpstream, redis_port: int
) -> None:
    flush(redis_port)
    over = {"limits": {"default": {"requests_per_minute": 10, "tokens_per_minute": 1_000_000}}}
    with budgeted(tmp_path, upstream.port, redis_port, over, edges=2) as (edges, _):
        started = time.monotonic()
        answers = asyncio.run(together(edges, [{**GOOD_BODY, "max_tokens": 1}] * 30, CLIENT_KEY))
        fits = 10 + 10 * (time.monotonic() - started) / MINUTE
        admitted = [answer for answer in answers if answer.status_code == 200]
        assert 10 <= len(admitted) <= fits
        codes = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 429}
        assert codes == {"requests_per_minute_exceeded"}


@pytest.mark.parametrize(("when_unavailable", "status"), [("admit", 200), ("refuse", 503)])
def test_the_setting_decides_when_the_budget_store_is_frozen_and_it_recovers(
    tmp_path: Path, upstream: RecordingUpstream, when_unavailable: str, status: int
) -> None:
    over = {"budgets": {"when_unavailable": when_unavailable, "timeout_seconds": 0.5}}
    with (
        running_redis(tmp_path / "redis") as own_redis,
        budgeted(tmp_path, upstream.port, own_redis, over) as (edges, metrics),
    ):
        body = {**GOOD_BODY, "max_tokens": 1}
        assert edges[0].post(body).status_code == 200
        redis_pid = int(
            subprocess.run(
                ["redis-cli", "-p", str(own_redis), "info", "server"],
                capture_output=True,
                text=True,
                check=True,
            )
            .stdout.split("process_id:")[1]
            .split()[0]
        )
        os.kill(redis_pid, signal.SIGSTOP)
        try:
            answer = edges[0].post(body)
            assert answer.status_code == status
            if status == 503:
                assert answer.json()["error"]["type"] == "server_error"
            assert "rate_limit_store_up 0.0" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        finally:
            os.kill(redis_pid, signal.SIGCONT)
        deadline = time.monotonic() + 10
        while "x-ratelimit-limit-tokens" not in edges[0].post(body).headers:
            assert time.monotonic() < deadline, "it must recover by itself"
            time.sleep(0.1)


@pytest.mark.parametrize(("when_unavailable", "status"), [("admit", 200), ("refuse", 503)])
def test_the_setting_decides_when_no_rate_limit_service_answers(
    tmp_path: Path, upstream: RecordingUpstream, when_unavailable: str, status: int
) -> None:
    settings = {
        "limits": {"default": {**WIDE, "tokens_per_minute": BUDGET}},
        "budgets": {"port": free_port(), "when_unavailable": when_unavailable},
    }
    with running_edge(tmp_path, upstream.port, settings, KEYS) as edge:
        assert {edge.post().status_code for _ in range(3)} == {status}


# Fairness: two greedy clients, and a third who must not feel them.

SLOTS = 16
SERVICE_SECONDS = 0.25
ROUNDS = 3


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[18]


async def times_of_third(edge: Edge, count: int) -> list[float]:
    """Ask ``count`` times at a steady 10 a second as the third client; return the times (seconds)."""
    seconds: list[float] = []

    async def one(client: httpx.AsyncClient) -> None:
        started = time.monotonic()
        body = {**GOOD_BODY, "max_tokens": 1}
        answer = await client.post(edge.url + CHAT, json=body, headers=edge.headers(THIRD_KEY))
        assert answer.status_code == 200, answer.text
        seconds.append(time.monotonic() - started)

    async with httpx.AsyncClient(timeout=30) as client:
        tasks = []
        due = time.monotonic()
        for _ in range(count):
            tasks.append(asyncio.create_task(one(client)))
            due += 0.1
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)
    return seconds


@contextlib.contextmanager
def greedy(edge: Edge, key: str, rate: float, burst: int, max_tokens: int) -> Iterator[dict[str, int]]:
    """Run a client of its own process that asks for more than it may, and collect its statuses."""
    body = json.dumps({**GOOD_BODY, "max_tokens": max_tokens})
    command = [
        sys.executable,
        "-m",
        "harness.paced_load",
        "--port",
        str(edge.port),
        "--key",
        key,
        "--body",
        body,
    ]
    command += ["--rate", str(rate), "--burst", str(burst), "--seconds", "3.5"]
    tests = Path(__file__).parents[3] / "tests"
    statuses: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tests) as process:
        yield statuses
        output, _ = process.communicate(timeout=60)
        statuses.update(json.loads(output))


@pytest.mark.timeout(300)
def test_a_third_client_does_not_feel_two_that_are_over_their_limits(tmp_path: Path, redis_port: int) -> None:
    """Alternates control rounds and rounds with neighbours; unrestrained they would fill every slot."""
    limits = {
        "default": WIDE,
        "clients": {
            "tester": {"requests_per_second": 2, "burst": 2},
            "other": {**WIDE, "tokens_per_minute": 600},
            "third": WIDE,
        },
    }
    ratios: list[float] = []
    with recording_upstream() as upstream, contextlib.ExitStack() as stack:
        upstream.slots = asyncio.Semaphore(SLOTS)
        upstream.manner = Manner(delay_seconds=SERVICE_SECONDS, tokens="prompt=1,completion=1")
        upstream.manner_of = lambda request: (
            Manner(delay_seconds=SERVICE_SECONDS, tokens="prompt=10,completion=100")
            if request.value("x-client-id") == "other"
            else Manner(delay_seconds=SERVICE_SECONDS, tokens="prompt=1,completion=1")
        )
        settings = {"limits": limits, "budgets": {"timeout_seconds": 2.0}}
        port, _ = stack.enter_context(running_rate_limit_service(tmp_path, settings, redis_port))
        settings = merged(settings, {"budgets": {"port": port}})
        edge = stack.enter_context(running_edge(tmp_path / "edge", upstream.port, settings, KEYS))
        for attempt in range(3):  # noise on a shared machine only ever makes the ratio worse
            alone: list[list[float]] = []
            crowded: list[float] = []
            for _ in range(ROUNDS):
                flush(redis_port)
                alone.append(asyncio.run(times_of_third(edge, 30)))
                with (
                    greedy(edge, CLIENT_KEY, 60, 1, 1) as over_rate,
                    greedy(edge, OTHER_KEY, 40, 20, 100) as over_budget,
                ):
                    time.sleep(0.4)
                    crowded += asyncio.run(times_of_third(edge, 30))
                assert over_rate["429"] > 5 * over_rate.get("200", 0), over_rate
                assert over_budget["429"] > 5 * over_budget.get("200", 0), over_budget
            control = p95([seconds for one in alone for seconds in one])
            # How much control rounds differ among themselves is the machine's doing.
            noise = max(p95(one) for one in alone) / min(p95(one) for one in alone)
            ratios.append(p95(crowded) / control / noise)
            print(
                f"attempt {attempt + 1}: third client's p95 {control * 1e3:.0f} ms alone (rounds differ by "
                f"{noise:.3f}), {p95(crowded) * 1e3:.0f} ms crowded: ratio {p95(crowded) / control:.3f}; over its "
                f"rate {over_rate}, over its budget {over_budget}"
            )
            if ratios[-1] <= 1.10:
                break
    assert min(ratios) <= 1.10, ratios
