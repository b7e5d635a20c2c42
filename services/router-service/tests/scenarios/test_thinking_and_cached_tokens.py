"""Thoughts and cached tokens of a real router and a simulated engine: record, metrics and the client's own view."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.servers.router_fleet import MODEL, RouterPart, fleet_in
from harness.waiting import eventually
from platform_contracts.event_streams import chunks
from router_service.records.explain import explain

pytestmark = [pytest.mark.service, pytest.mark.untimed]

LONG = "The quick brown fox jumps over the lazy dog. " * 30


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterPart]:
    with fleet_in(tmp_path_factory.mktemp("thinking")) as fleet:
        fleet.add_engine("one", "--step-seconds", "0.02")
        yield fleet.add_router()


def test_thoughts_come_before_the_first_token_of_the_answer(router: RouterPart) -> None:
    body = {"stream": True, "max_tokens": 20, "chat_template_kwargs": {"enable_thinking": True}}
    answer = router.post(**body)
    deltas = [c["choices"][0]["delta"] for c in chunks(answer.content) if c["choices"]]
    assert sum("reasoning" in delta for delta in deltas) >= 5, "the engine must have sent thoughts"
    record = router.record(answer.headers["x-request-id"])
    assert record["tokens"]["reasoning"] == 10
    assert record["tokens"]["completion"] == 20
    assert record["first_answer_ms"] > record["first_token_ms"]
    view = httpx.get(f"{router.url}/v1/requests/{record['request_id']}").json()
    assert view["times_ms"]["first_answer"] == record["first_answer_ms"]
    assert router.metric("router_tokens_total", kind="reasoning") == 10
    assert router.metric("router_first_answer_seconds_count", pool="general") == 1


def test_without_thoughts_the_first_token_is_the_answers(router: RouterPart) -> None:
    record = router.record(router.post(stream=True, max_tokens=4).headers["x-request-id"])
    assert record["first_answer_ms"] == pytest.approx(record["first_token_ms"], abs=5.0)
    assert not record["tokens"]["reasoning"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/responses", {"input": LONG, "max_output_tokens": 2}),
        ("/v1/messages", {}),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_cached_tokens_are_recorded_in_every_api(
    router: RouterPart, path: str, body: dict[str, object], stream: bool
) -> None:
    asked = {"messages": [{"role": "user", "content": LONG}], "stream": stream, **body}
    before = router.metric("router_tokens_total", kind="cached")
    for _ in range(2):
        answer = router.post(path, **asked)
        assert answer.status_code == 200, answer.text
    record = router.record(answer.headers["x-request-id"])
    assert 0 < record["tokens"]["cached"] <= record["tokens"]["prompt"]
    assert router.metric("router_tokens_total", kind="cached") > before


def test_time_of_thoughts_is_counted_once_for_streams_that_think(router: RouterPart) -> None:
    before = router.metric("router_thinking_seconds_total")
    router.record(router.post(stream=True, max_tokens=4).headers["x-request-id"])
    assert router.metric("router_thinking_seconds_total") == before
    thinks = {"stream": True, "max_tokens": 20, "chat_template_kwargs": {"enable_thinking": True}}
    record = router.record(router.post(**thinks).headers["x-request-id"])
    grown = router.metric("router_thinking_seconds_total") - before
    assert grown == pytest.approx((record["first_answer_ms"] - record["first_token_ms"]) / 1e3, abs=1e-4)


def test_a_prefix_is_expected_where_it_was_served_and_moves_to_a_backend_that_joins(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        for name in ("one", "two"):
            fleet.add_engine(name)
        policy = {"policy": "prefix_affinity", "models": [MODEL]}
        members = fleet.configuration(1)["pools"]["general"]["backends"]
        first = {"general": {**policy, "backends": {"one": members["one"]}}}
        router = fleet.add_router(wait_usable=1, pools=first)

        def asked(number: int) -> dict[str, Any]:
            text = f"{number} {LONG}"
            answer = router.post(stream=True, messages=[{"role": "user", "content": text}])
            return router.record(answer.headers["x-request-id"])

        assert {asked(number)["affinity"]["prefix"] for number in range(12)} == {"new"}
        again = [asked(number) for number in range(12)]
        assert {record["affinity"]["prefix"] for record in again} == {"kept"}
        assert "prompt tokens were in its prefix cache" in explain(again[0])
        prompt = sum(record["tokens"]["prompt"] for record in again)
        assert router.metric("router_expected_cache_tokens_total", kind="prompt") == prompt
        assert 0.5 * prompt < router.metric("router_expected_cache_tokens_total", kind="cached") <= prompt
        fleet.rewrite(router, pools={"general": {**policy, "backends": members}})
        eventually(lambda: router.usable() == 2, "both backends are in use")
        joined = [asked(number) for number in range(12)]
        moved = [record for record in joined if record["chosen"] == "two"]
        assert 0 < len(moved) < 12
        for record in joined:
            assert record["affinity"]["prefix"] == ("moved" if record in moved else "kept")
        assert "its prefix cache was not used" in explain(moved[0])
        assert router.metric("router_first_tokens_total", affinity="prefix_moved") == len(moved)
