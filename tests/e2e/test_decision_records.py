"""Every request has one decision record under its id, and its ledger adds up to the measured time."""

import json
import statistics
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from harness.stacks.local import Stack

MODEL = "smollm2-135m-instruct"
ROUNDING_MS = 0.5


def ask(stack: Stack, *, stream: bool = True, content: str = "Say hello.", **more: Any) -> httpx.Response:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4,
        "temperature": 0,
        "stream": stream,
        **more,
    }
    return httpx.post(
        f"{stack.edge}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {stack.key}"},
        timeout=120,
    )


def record(stack: Stack, request_id: str) -> dict[str, Any]:
    """Return a request's record; wait for it, because it is written after the last response byte."""
    url = f"{stack.router}/debug/decisions/{request_id}"
    deadline = time.monotonic() + 10
    while (answer := httpx.get(url)).status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def router_log_lines(stack: Stack, request_id: str) -> list[dict[str, Any]]:
    log = stack.run_dir / "logs" / "router.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line.get("request_id") == request_id and "ttft_ledger_ms" in line]


def test_the_answers_headers_and_the_record_tell_the_same_story(stack: Stack) -> None:
    answer = ask(stack)
    found = record(stack, answer.headers["x-request-id"])
    assert answer.status_code == 200
    assert found["chosen"] == answer.headers["x-route-backend"]
    assert found["reason"] == answer.headers["x-route-reason"]
    assert len(found["attempts"]) == int(answer.headers["x-route-attempts"])
    assert found["outcome"] == "ok"
    assert found["client_id"] == "demo"
    assert found["tokens"]["completion"] > 0


def test_the_ledger_adds_up_to_the_measured_time_to_first_token(stack: Stack) -> None:
    for _ in range(5):
        found = record(stack, ask(stack).headers["x-request-id"])
        ledger = found["ttft_ledger_ms"]
        parts = [value for value in ledger.values() if isinstance(value, int | float)]
        assert found["first_token_ms"] > 0
        assert sum(parts) == pytest.approx(found["first_token_ms"], abs=ROUNDING_MS)
        assert {"edge", "router", "connect", "unexplained"} <= ledger.keys()
        assert ledger["edge"] is None or ledger["edge"] >= 0


@pytest.mark.platform
@pytest.mark.full
@pytest.mark.timeout(700)
def test_what_no_part_explains_is_small_at_the_median_on_vllm(vllm_stack: Stack) -> None:
    records = [record(vllm_stack, ask(vllm_stack).headers["x-request-id"]) for _ in range(30)]
    left = statistics.median(found["ttft_ledger_ms"]["unexplained"] for found in records)
    total = statistics.median(found["first_token_ms"] for found in records)
    print(f"unexplained at the median: {left:.2f} ms of {total:.1f} ms, over {len(records)} requests on vLLM")
    assert abs(left) <= max(0.02 * total, 10.0)


def test_the_engines_own_figures_stand_in_the_ledger(stack: Stack) -> None:
    ledger = record(stack, ask(stack).headers["x-request-id"])["ttft_ledger_ms"]
    assert ledger["prefill"] > 0
    assert ledger["engine_queue"] >= 0


def test_an_unstreamed_request_has_a_record_and_no_time_to_first_token(stack: Stack) -> None:
    found = record(stack, ask(stack, stream=False).headers["x-request-id"])
    assert found["outcome"] == "ok"
    assert found["first_token_ms"] is None


def test_each_of_many_requests_at_once_has_exactly_one_log_line(stack: Stack) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(stack), range(8)))
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 8
    for request_id in ids:
        record(stack, request_id)
    deadline = time.monotonic() + 10
    while any(len(router_log_lines(stack, one)) != 1 for one in ids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {one: len(router_log_lines(stack, one)) for one in ids} == dict.fromkeys(ids, 1)


def test_a_long_prompt_goes_where_its_rule_says(stack: Stack) -> None:
    answer = ask(stack, content="word " * 620)
    assert answer.headers["x-route-rule"] == "long_prompt"
    assert answer.headers["x-route-backend"] == "backend-b"


def test_a_session_stays_with_its_backend(stack: Stack) -> None:
    session = f"session-{uuid.uuid4()}"
    backends = set()
    for _ in range(3):
        answer = httpx.post(
            f"{stack.edge}/v1/chat/completions",
            json={"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
            headers={"authorization": f"Bearer {stack.key}", "x-session-id": session},
            timeout=120,
        )
        backends.add(answer.headers["x-route-backend"])
    assert len(backends) == 1


def test_a_request_the_router_refuses_has_a_record_too(stack: Stack) -> None:
    answer = ask(stack, model="no-such-model")
    assert answer.status_code == 404
    assert record(stack, answer.headers["x-request-id"])["outcome"] in ("client_error", "refused")


def test_what_the_edge_refuses_never_reaches_the_router(stack: Stack) -> None:
    answer = httpx.post(f"{stack.edge}/v1/chat/completions", json={"model": MODEL, "messages": []})
    assert answer.status_code == 401
    assert answer.json()["error"]["message"]
    found = httpx.get(f"{stack.router}/debug/decisions/{answer.headers['x-request-id']}")
    assert found.status_code == 404
