"""Limits of one client: its rate, its tokens across all edges, and no effect on other clients."""

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.ports import free_port
from harness.servers.edges import (
    CHAT,
    CLIENT_KEY,
    GOOD_BODY,
    LOAD_KEY,
    WIDE,
    Edge,
    merged,
    redis_frozen,
    running_edge,
    running_rate_limit_service,
    running_redis,
)
from harness.servers.recording_upstream import Manner, RecordingUpstream

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
    """Return the edge's reservation for a body: a third of its bytes plus the longest completion."""
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
def budget(
    redis_port: int, module_upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Edge, int]]:
    """An edge with a budget, and the port of the budget's metrics."""
    with budgeted(tmp_path_factory.mktemp("budget"), module_upstream.port, redis_port) as (edges, metrics):
        yield edges[0], metrics


@pytest.fixture
def budget_edge(budget: tuple[Edge, int]) -> Edge:
    return budget[0]


def remaining(answer: httpx.Response) -> int:
    return int(answer.headers["x-ratelimit-remaining-tokens"])


@pytest.mark.parametrize(
    ("what", "manner", "cost"),
    [
        ("an answer that reports its tokens in the head", Manner(tokens="prompt=5,completion=6"), 11),
        (
            "a failure before any engine costs nothing",
            Manner(status=503, headers=(("x-route-attempts", "0"),)),
            0,
        ),
        ("a refusal costs nothing", Manner(status=400, headers=(("x-route-attempts", "1"),)), 0),
        (
            "a failure of an engine keeps its reservation",
            Manner(503, headers=(("x-route-attempts", "2"),)),
            None,
        ),
        (
            "a failure of an engine whose tokens are known costs those",
            Manner(502, tokens="prompt=5,completion=6", headers=(("x-route-attempts", "1"),)),
            11,
        ),
        ("an answer that reports nothing keeps its reservation", Manner(), None),
        ("an answer that used more than was reserved", Manner(tokens="prompt=400,completion=300"), 700),
    ],
)
def test_an_unstreamed_answer_is_settled(
    budget: tuple[Edge, int],
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
    edge, metrics = budget
    before = settled(metrics)
    first = edge.post(body)
    assert first.status_code == manner.status
    if cost is None:
        time.sleep(0.3)
        assert settled(metrics) == before
    deadline = time.monotonic() + 20
    while cost is not None and settled(metrics) == before:
        assert time.monotonic() < deadline, "the answer was not settled"
        time.sleep(0.02)
    second = edge.post(body)
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


def test_a_refusal_on_anthropics_path_has_anthropics_form(
    budget_edge: Edge, upstream: RecordingUpstream, redis_port: int
) -> None:
    flush(redis_port)
    body = {"model": "m", "max_tokens": 900, "messages": [{"role": "user", "content": "hi"}]}
    answers = [budget_edge.post(body, "/v1/messages") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    refused = answers[1]
    assert refused.headers["content-type"] == "application/json"
    assert int(refused.headers["retry-after"]) >= 1
    error = refused.json()
    assert error["type"] == "error"
    assert error["error"]["type"] == "rate_limit_error"
    assert error["request_id"] == refused.headers["x-request-id"]
    other = budget_edge.post({**GOOD_BODY, "max_tokens": 900}).json()
    assert other["error"]["code"] == "tokens_per_minute_exceeded", "OpenAI's paths keep theirs"


def test_several_choices_and_an_absent_limit_are_part_of_the_estimate(
    budget_edge: Edge, upstream: RecordingUpstream, redis_port: int
) -> None:
    flush(redis_port)
    assert budget_edge.post({**GOOD_BODY, "max_tokens": 100, "n": 10}).status_code == 429
    assert budget_edge.post(GOOD_BODY).status_code == 429, "no max_tokens: the assumed length is reserved"
    assert budget_edge.post({**GOOD_BODY, "max_tokens": 100, "n": 2}).status_code == 200


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": ["a"] * 20},
        {"prompt": [[1, 2]] * 20},
        {"prompt": "a", "n": 20},
        {"prompt": "a", "best_of": 20},
        {"prompt": ["a"] * 5, "n": 4},
        {"prompt": [""] * 1_000_000, "n": 128, "max_tokens": 1_000_000},  # 1.28e+20 in Lua
    ],
)
def test_every_prompt_and_every_choice_is_reserved(
    budget_edge: Edge, upstream: RecordingUpstream, redis_port: int, more: dict[str, Any]
) -> None:
    """20 answers of 60 tokens are over the budget of 1,000; one of them is not."""
    flush(redis_port)
    path = "/v1/completions"
    answer = budget_edge.post({"model": "m", "max_tokens": 60, **more}, path)
    assert (answer.status_code, upstream.count) == (429, 0)
    assert budget_edge.post({"model": "m", "max_tokens": 60, "prompt": [1] * 20}, path).status_code == 200


def test_the_largest_of_two_limits_is_reserved(
    budget_edge: Edge, upstream: RecordingUpstream, redis_port: int
) -> None:
    flush(redis_port)
    assert budget_edge.post({**GOOD_BODY, "max_completion_tokens": 1, "max_tokens": 2000}).status_code == 429
    assert upstream.count == 0


def test_a_refusal_names_the_budget_of_the_team_and_its_period(tmp_path, upstream, redis_port) -> None:
    flush(redis_port)
    team = {"clients": ["load"], "tokens_per_day": 800}
    with budgeted(tmp_path, upstream.port, redis_port, {"limits": {"teams": {"batch": team}}}) as (edges, _):
        answers = [edges[0].post({**GOOD_BODY, "max_tokens": 700}, key=LOAD_KEY) for _ in range(2)]
    assert (answers[0].status_code, answers[1].headers["x-should-retry"]) == (200, "false")
    assert answers[1].json()["error"]["code"] == "team_tokens_per_day_exceeded"
    assert " of 800 a day of the team's budget are left" in answers[1].json()["error"]["message"]


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
        with redis_frozen(own_redis):
            answer = edges[0].post(body)
            assert answer.status_code == status
            if status == 503:
                assert answer.json()["error"]["type"] == "server_error"
            assert "rate_limit_store_up 0.0" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        deadline = time.monotonic() + 10
        while "x-ratelimit-limit-tokens" not in edges[0].post(body).headers:
            assert time.monotonic() < deadline, "it must recover by itself"
            time.sleep(0.1)


def test_without_the_store_a_client_gets_a_small_local_budget(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    """A tenth of 1,000 tokens a minute: two requests of 40 tokens pass, the third is refused and counted."""
    upstream.manner = Manner()
    with (
        running_redis(tmp_path / "redis") as own_redis,
        budgeted(tmp_path, upstream.port, own_redis, {"budgets": {"timeout_seconds": 0.5}}) as (
            edges,
            metrics,
        ),
    ):
        with redis_frozen(own_redis):
            answers = [edges[0].post({**GOOD_BODY, "max_tokens": 20}) for _ in range(10)]
            text = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        admitted = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 1 <= len(admitted) <= 5, [answer.status_code for answer in answers]
        assert len(admitted) + len(refused) == 10
        assert "retry-after" in refused[0].headers
        assert "x-should-retry" not in refused[0].headers
        assert f'rate_limit_decisions_total{{outcome="local_refused"}} {float(len(refused))}' in text
        assert "rate_limit_store_up 0.0" in text


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
        assert edge.metric("envoy_cluster_ratelimit_budget_error") == 3, (
            "the alert BudgetStoreDown reads this"
        )
