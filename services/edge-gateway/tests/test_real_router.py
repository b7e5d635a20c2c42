"""The edge in front of the real router and the engine simulator: admitted and refused requests."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.clients.raw_http import exchange
from harness.judges.edge_corpus import ILL_TYPED, MALFORMED, RAW_REFUSED
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.edges import (
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
from harness.waiting import eventually

pytestmark = pytest.mark.service

BUDGET = 2_000
LARGE_BUDGET = 2_000_000
RANKER_KEY = "sk-ranker-0123456789abcdef0123456789"


@dataclass(frozen=True)
class Way:
    """Edge, router and engine."""

    edge: Edge
    router: str
    engine: str
    budget_metrics: int
    redis_port: int

    def settlements(self) -> float:
        """How many answers the rate limit service has settled."""
        text = httpx.get(f"http://127.0.0.1:{self.budget_metrics}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("rate_limit_settlements_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def record(self, request_id: str) -> dict[str, Any]:
        """Return the decision record of a request that ends soon."""

        def found() -> dict[str, Any] | None:
            answer = httpx.get(f"{self.router}/debug/decisions/{request_id}")
            return answer.json() if answer.status_code == 200 and answer.json()["outcome"] else None

        return eventually(found, "the request ended")

    def spent(self, client: str = "tester", budget: int = BUDGET) -> float:
        """Return the tokens that a client's bucket lacked when it was last changed."""
        bucket = f"edge:{{{client}}}:tokens"
        asked = ["redis-cli", "-p", str(self.redis_port), "hget", bucket, "level"]
        level = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        return budget - float(level or budget)

    def forget_budgets(self) -> None:
        """Fill every bucket."""
        subprocess.run(["redis-cli", "-p", str(self.redis_port), "flushall"], check=True, capture_output=True)

    def router_requests(self) -> float:
        """The router's own count of finished, refused and failed requests."""
        text = httpx.get(f"{self.router}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("router_requests_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    directory: Path = tmp_path_factory.mktemp("path")
    engine, router = free_port(), free_port()
    config = {
        "server": {"host": "127.0.0.1", "port": router},
        "pools": {
            "general": {
                "policy": "least_loaded",
                "models": ["m"],
                "backends": {"backend-a": {"url": f"http://127.0.0.1:{engine}"}},
            }
        },
        "routing": {"default_pool": "general"},
        "timeouts": {"total_seconds": 8},
    }
    file = directory / "router.yaml"
    binaries = Path(sys.executable).parent
    simulator = [binaries / "engine-simulator", "serve", "--port", str(engine), "--seed", "1", "--model", "m"]
    simulator.append("--store-responses")
    serving = [binaries / "router-service", "serve", "--config", file]

    def configured(budgets: int) -> list[Path | str]:
        file.write_text(yaml.safe_dump({**config, "budgets": {"address": f"127.0.0.1:{budgets}"}}))
        return serving

    ranker = {**WIDE, "tokens_per_minute": LARGE_BUDGET}
    limits = {
        "default": {**WIDE, "tokens_per_minute": BUDGET},
        "clients": {"load": WIDE, "ranker": ranker},
    }
    keys = {"tester": [CLIENT_KEY], "load": [LOAD_KEY], "ranker": [RANKER_KEY]}
    settings = {
        "limits": limits,
        "budgets": {"timeout_seconds": 2.0},
        "bounds": {"max_body_bytes": 2_000_000},
    }
    with (
        running(simulator, log=directory / "engine.log", ready=answers(f"http://127.0.0.1:{engine}/health")),
        running_redis(directory / "redis") as redis_port,
        running_rate_limit_service(directory, settings, redis_port) as (port, metrics),
        running(
            configured(port), log=directory / "router.log", ready=answers(f"http://127.0.0.1:{router}/readyz")
        ),
        running_edge(directory / "edge", router, merged(settings, {"budgets": {"port": port}}), keys) as edge,
    ):
        yield Way(edge, f"http://127.0.0.1:{router}", f"http://127.0.0.1:{engine}", metrics, redis_port)


def test_no_bad_request_of_the_corpus_reaches_the_router(way: Way) -> None:
    assert way.edge.post({**GOOD_BODY, "max_tokens": 1}, key=LOAD_KEY).status_code == 200
    before = way.router_requests()
    assert before >= 1, "the counter counts"
    with httpx.Client(base_url=way.edge.url, headers=way.edge.headers(LOAD_KEY), timeout=30) as client:
        for what, body, _ in MALFORMED:
            assert client.post(CHAT, content=body).status_code == 400, what
        for what, path, value, _ in ILL_TYPED:
            assert client.post(path, json=value).status_code == 400, what
    for what, request, statuses in RAW_REFUSED:
        if 200 not in statuses:
            assert 400 <= exchange(way.edge.port, request).status <= 501, what
    assert way.router_requests() == before


@pytest.mark.parametrize("stream", [False, True])
def test_one_id_leads_from_the_answer_to_both_records(way: Way, stream: bool) -> None:
    answer = way.edge.post({**GOOD_BODY, "max_tokens": 5, "stream": stream}, key=LOAD_KEY)
    assert answer.status_code == 200
    assert not stream or answer.text.rstrip().endswith("data: [DONE]")
    request_id = answer.headers["x-request-id"]
    entry = way.edge.access_line(request_id)
    assert entry["backend"] == "backend-a"
    reported = entry["tokens"] if stream else entry["tokens_known_at_start"]
    assert reported.startswith("prompt=")
    assert reported.endswith("completion=5")
    record = httpx.get(f"{way.router}/debug/decisions/{request_id}").json()
    assert record["request_id"] == request_id
    assert record["client_id"] == "load"


def test_a_budget_is_settled_with_what_the_engine_reports(way: Way) -> None:
    """A long field that is no prompt: the estimate by size is well above the tokens the engine counts."""
    body = {**GOOD_BODY, "max_tokens": 5, "stream": True, "user": "x" * 1500}
    started = time.monotonic()
    first = way.edge.post(body)
    assert first.status_code == 200
    entry = way.edge.access_line(first.headers["x-request-id"])
    used = sum(int(part.split("=")[1]) for part in entry["tokens"].split(","))
    assert used < int(entry["tokens_reserved"]) - 100, "the test needs a difference to settle"
    deadline = time.monotonic() + 10
    while way.settlements() == 0:
        assert time.monotonic() < deadline, "the answer was not settled"
        time.sleep(0.05)
    second = way.edge.post({**GOOD_BODY, "max_tokens": 1})
    reserved = int(way.edge.access_line(second.headers["x-request-id"])["tokens_reserved"])
    left = int(second.headers["x-ratelimit-remaining-tokens"])
    expected = BUDGET - used - reserved
    refilled = BUDGET * (time.monotonic() - started) / 60
    assert min(expected, BUDGET - reserved) - 2 <= left <= expected + refilled + 2


def test_a_large_ranking_costs_the_tokens_that_the_engine_counted(way: Way) -> None:
    """The usage is at the beginning of an answer of over 1 MiB."""
    way.forget_budgets()
    before = way.settlements()
    documents = [f"{number} " + "Paris is a city. " * 85 for number in range(1000)]
    began = time.monotonic()
    answer = way.edge.post({"model": "m", "query": "Paris", "documents": documents}, "/v1/rerank", RANKER_KEY)
    assert answer.status_code == 200
    assert len(answer.content) > 1024 * 1024
    assert answer.content.index(b'"usage"') < 1000
    used = answer.json()["usage"]["total_tokens"]
    request_id = answer.headers["x-request-id"]
    assert way.record(request_id)["tokens"]["prompt"] == used
    reserved = int(way.edge.access_line(request_id)["tokens_reserved"])
    refilled = LARGE_BUDGET * (time.monotonic() - began) / 60
    assert abs(reserved - used) > 2 * refilled + 1000, "the test needs a difference to settle"
    eventually(lambda: way.settlements() > before, "the answer is settled")
    refilled = LARGE_BUDGET * (time.monotonic() - began) / 60
    assert used - refilled - 1 <= way.spent("ranker", LARGE_BUDGET) <= used + 1


LEFT_EARLY: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {**GOOD_BODY, "max_tokens": 1500}),
    ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 1500}),
    ("/v1/messages", {**GOOD_BODY, "max_tokens": 1500}),
    ("/v1/responses", {"model": "m", "input": "hi", "max_output_tokens": 1500}),
]


@pytest.mark.parametrize(("path", "body"), LEFT_EARLY, ids=[path for path, _ in LEFT_EARLY])
def test_a_stream_left_early_costs_what_it_delivered(way: Way, path: str, body: dict[str, Any]) -> None:
    way.forget_budgets()
    before = way.settlements()
    began = time.monotonic()
    body = {**body, "ignore_eos": True, "stream": True}
    delivered = 0
    with httpx.stream(
        "POST", way.edge.url + path, json=body, headers=way.edge.headers(), timeout=30
    ) as answer:
        request_id = answer.headers["x-request-id"]
        for line in answer.iter_lines():
            delivered += (line.startswith("data: {") and '"delta"' in line) or '"text"' in line
            if delivered == 20:
                break
    record = way.record(request_id)
    assert record["outcome"] == "cancelled"
    reserved = int(way.edge.access_line(request_id)["tokens_reserved"])
    eventually(lambda: way.settlements() > before, "the router settles what the edge cannot")
    refilled = BUDGET * (time.monotonic() - began) / 60
    tokens = record["tokens"]
    if path in (CHAT, "/v1/completions"):
        assert 18 <= tokens["completion"] < 1000, "the client left in the middle"
        used = tokens["prompt"] + tokens["completion"]
        assert used - refilled - 1 <= way.spent() <= used + 1
    else:  # The engine reports no tokens before the end: the deltas count.
        assert way.spent() + refilled >= 18
        assert way.spent() < 1000 < reserved


def test_a_background_response_costs_what_it_used(way: Way) -> None:
    """The engine reports its tokens to a later request."""
    way.forget_budgets()
    before = way.settlements()
    began = time.monotonic()
    body = {"model": "m", "input": "hi", "max_output_tokens": 500, "background": True}
    made = way.edge.post(body, "/v1/responses")
    assert made.json()["status"] == "queued"
    url = f"{way.edge.url}/v1/responses/{made.json()['id']}"

    def ended() -> dict[str, Any] | None:
        answer = httpx.get(url, headers=way.edge.headers(), timeout=30)
        return answer.json()["usage"] if answer.status_code == 200 else None

    used = eventually(ended, "the response is complete")["total_tokens"]
    reserved = int(way.edge.access_line(made.headers["x-request-id"])["tokens_reserved"])
    refilled = BUDGET * (time.monotonic() - began) / 60
    assert reserved - used > 2 * refilled + 50, "the test needs a difference to settle"
    eventually(lambda: way.settlements() > before, "the response is settled")
    refilled = BUDGET * (time.monotonic() - began) / 60
    assert used - refilled - 1 <= way.spent() <= used + 1


def test_a_whole_answer_that_times_out_keeps_its_reservation(way: Way) -> None:
    """The engine works until the router's total_seconds, and its token count is unknown."""
    way.forget_budgets()
    before = way.settlements()
    httpx.post(f"{way.engine}/sim/faults", json={"kind": "long_prefill", "seconds": 60}).raise_for_status()
    try:
        answer = way.edge.post({**GOOD_BODY, "max_tokens": 500})
    finally:
        httpx.delete(f"{way.engine}/sim/faults").raise_for_status()
    assert answer.status_code == 504
    entry = way.edge.access_line(answer.headers["x-request-id"])
    assert not entry["tokens_known_at_start"], "unknown is absent, not zero"
    assert way.record(answer.headers["x-request-id"])["attempts"][0]["outcome"] == "total_timeout"
    assert way.settlements() == before
    assert way.spent() == int(entry["tokens_reserved"])


def test_a_request_that_no_engine_saw_costs_nothing(way: Way) -> None:
    way.forget_budgets()
    before = way.settlements()
    answer = way.edge.post({**GOOD_BODY, "model": "unknown", "max_tokens": 500})
    assert answer.status_code == 404
    eventually(lambda: way.settlements() > before, "the reservation is given back")
    assert way.spent() == 0
