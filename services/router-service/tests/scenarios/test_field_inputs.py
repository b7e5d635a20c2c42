"""Inputs of public bug reports, with one engine, a router and an edge: escaped model names and two timers of a stream."""

import time
from collections.abc import Iterator

import httpx
import pytest

from harness.servers.edges import WIDE, Edge, running_edge
from harness.servers.router_fleet import MODEL, Fleet, fleet_in

pytestmark = [pytest.mark.service, pytest.mark.untimed]

ALIAS = "acme/model:v1@2"
FIRST_TOKEN_SECONDS = 8.0
IDLE_SECONDS = 2.0
PREFILL_SECONDS = 3.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_in(tmp_path_factory.mktemp("field")) as fleet:
        engine = fleet.add_engine("one")
        pool = {"models": [MODEL], "aliases": {ALIAS: MODEL}, "backends": {"one": {"url": engine.url}}}
        timeouts = {
            "connect_seconds": 5,
            "first_token_seconds": FIRST_TOKEN_SECONDS,
            "idle_seconds": IDLE_SECONDS,
            "total_seconds": 60,
        }
        fleet.add_router(pools={"general": pool}, timeouts=timeouts)
        yield fleet


@pytest.fixture(scope="module")
def edge(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    with running_edge(folder, fleet.routers[0].port, {"limits": {"default": WIDE}}) as edge:
        yield edge


@pytest.mark.parametrize(
    "name",
    [
        *("acme%2Fmodel%3Av1%402", "acme/model%3Av1%402", "acme%2fmodel%3av1%402"),
        *("acme/model:v1%402", "acme%2Fmodel:v1@2"),
    ],
)
def test_an_escaped_model_name_is_retrieved_like_the_plain_one(edge: Edge, name: str) -> None:
    plain = httpx.get(f"{edge.url}/v1/models/{ALIAS}", headers=edge.headers())
    escaped = httpx.get(f"{edge.url}/v1/models/{name}", headers=edge.headers())
    assert (plain.status_code, plain.json()["id"]) == (200, ALIAS)
    assert (escaped.status_code, escaped.json()) == (200, plain.json())


def test_silence_after_one_token_is_cut_by_the_idle_timer(fleet: Fleet) -> None:
    (router,) = fleet.routers
    engine = fleet.engines["one"]
    engine.fault("stall_mid_stream", after_chunks=1)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
    try:
        with httpx.stream(
            "POST",
            f"{router.url}/v1/chat/completions",
            json={**body, "stream": True, "ignore_eos": True},
            timeout=30,
        ) as answer:
            request_id = answer.headers["x-request-id"]
            first_at = 0.0
            text = ""
            broken = False
            try:
                for piece in answer.iter_text():
                    first_at = first_at or time.monotonic()
                    text += piece
            except httpx.RemoteProtocolError:
                broken = True
            silent_seconds = time.monotonic() - first_at
        assert engine.hits("stall_mid_stream") == 1
    finally:
        engine.heal()
    assert broken
    assert '"error"' in text
    assert IDLE_SECONDS - 0.2 <= silent_seconds < FIRST_TOKEN_SECONDS - 1.5, (
        "not the timer of the first token"
    )
    record = router.record(request_id)
    assert (record["outcome"], record["attempts"][0]["outcome"]) == ("timeout", "idle_timeout")


def test_a_long_prefill_of_a_response_counts_until_its_first_output(fleet: Fleet) -> None:
    (router,) = fleet.routers
    engine = fleet.engines["one"]
    engine.fault("long_prefill", seconds=PREFILL_SECONDS)
    try:
        answer = router.post("/v1/responses", stream=True, input="hi", max_output_tokens=3)
        assert engine.hits("long_prefill") >= 1
    finally:
        engine.heal()
    assert "response.completed" in answer.text
    record = router.record(answer.headers["x-request-id"])
    assert PREFILL_SECONDS * 1e3 <= record["first_token_ms"] < (FIRST_TOKEN_SECONDS - 1) * 1e3
    ledger = record["ttft_ledger_ms"]
    assert ledger["prefill"] >= PREFILL_SECONDS * 1e3 - 200
    assert abs(ledger["unexplained"]) < 1000, "the announcement of the response is not its first token"
