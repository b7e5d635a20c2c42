"""The edge in front of the real router and the engine simulator: what arrives there, and what does not."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from harness.edge_corpus import ILL_TYPED, MALFORMED, RAW_REFUSED
from harness.edges import (
    CHAT,
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
from harness.processes import answers, running
from harness.raw_http import exchange

pytestmark = pytest.mark.service

BUDGET = 2_000


@dataclass(frozen=True)
class Way:
    """Edge, router and engine."""

    edge: Edge
    router: str
    budget_metrics: int

    def settlements(self) -> float:
        """How many answers the rate limit service has settled."""
        text = httpx.get(f"http://127.0.0.1:{self.budget_metrics}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("rate_limit_settlements_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

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
    }
    file = directory / "router.yaml"
    file.write_text(yaml.safe_dump(config))
    binaries = Path(sys.executable).parent
    simulator = [binaries / "engine-simulator", "serve", "--port", str(engine), "--seed", "1", "--model", "m"]
    serving = [binaries / "router-service", "serve", "--config", file]
    limits = {"default": {**WIDE, "tokens_per_minute": BUDGET}, "clients": {"load": WIDE}}
    settings = {
        "limits": limits,
        "budgets": {"timeout_seconds": 2.0},
        "bounds": {"max_body_bytes": 1_000_000},
    }
    with (
        running(simulator, log=directory / "engine.log", ready=answers(f"http://127.0.0.1:{engine}/health")),
        running(serving, log=directory / "router.log", ready=answers(f"http://127.0.0.1:{router}/readyz")),
        running_redis(directory / "redis") as redis_port,
        running_rate_limit_service(directory, settings, redis_port) as (port, metrics),
        running_edge(directory / "edge", router, merged(settings, {"budgets": {"port": port}})) as edge,
    ):
        yield Way(edge, f"http://127.0.0.1:{router}", metrics)


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
