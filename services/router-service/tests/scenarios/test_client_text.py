"""Every text that a client chooses, with 4 MB and a canary: none of it reaches a record, log, metric, header or error.

Header texts are tried at 60 kB: the HTTP parser's own bound is not this test's subject.
"""

import json
import re
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.service, pytest.mark.untimed]

CANARY = "canary-7f3a91"
BOUND = 256
LONG = "x" * (4 * 1024 * 1024) + CANARY
LONG_HEADER = "x" * 60_000 + CANARY
MOST_LINE_BYTES = 8 * 1024
MOST_ANSWER_BYTES = 4 * 1024
ROUNDS = 4
MOST_GROWTH_BYTES = 32 * 1024 * 1024
"""Of the router's memory after the first round of the table, which leaves the allocator at its peak: a router that
stored one text of 4 MB a round would grow by more in the rounds after it."""


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    return {"decisions": {"ring": 500, "ring_bytes": 65_536}}


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    when = {"any": [{"any_keywords": ["python"]}, {"header": {"x-team": "search-*"}}]}
    return [{"name": "texts", "when": when, "route_to": "general"}]


def message(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


BODIES: dict[str, Any] = {
    "model": lambda text: {"model": text, "messages": message("hi")},
    "model with spaces": lambda text: {"model": "a b " + text, "messages": message("hi")},
    "message": lambda text: {"messages": message(text), "max_tokens": 1},
    "system": lambda text: {
        "messages": [{"role": "system", "content": text}, *message("hi")],
        "max_tokens": 1,
    },
    "role": lambda text: {"messages": [{"role": text, "content": "hi"}], "max_tokens": 1},
    "user": lambda text: {"messages": message("hi"), "user": text, "max_tokens": 1},
    "metadata": lambda text: {"messages": message("hi"), "metadata": {text: text}, "max_tokens": 1},
    "an unknown key": lambda text: {"messages": message("hi"), text: 1, "max_tokens": 1},
    "max_tokens": lambda text: {"messages": message("hi"), "max_tokens": text},
    "stream": lambda text: {"messages": message("hi"), "stream": text, "max_tokens": 1},
}
HEADERS = (
    "x-request-id",
    "x-client-id",
    "x-session-id",
    "traceparent",
    "x-edge-start",
    "x-team",
    "te",
    "user-agent",
)
PAGES = {
    "a model's page": "/v1/models/{}",
    "a decision's page": "/debug/decisions/{}",
    "an outcome": "/debug/decisions?outcome={}",
    "a backend": "/debug/decisions?backend={}",
    "a limit": "/debug/decisions?limit={}",
    "an unknown path": "/v1/{}",
}


def signals(rig) -> bytes:
    """Return everything that the router shows of past requests."""
    shown = [httpx.get(f"{rig.url}{path}").content for path in ("/metrics", "/debug/decisions?limit=1000")]
    rig.post(rig.body(stream=False, max_tokens=1))  # its log line comes after those of all requests before it
    return b"".join([*shown, rig.log.read_bytes()])


def check_answer(answer: httpx.Response, what: str) -> None:
    head = sum(len(name) + len(value) for name, value in answer.headers.raw)
    assert head < MOST_ANSWER_BYTES, f"{what}: {head} bytes of headers"
    if answer.status_code >= 400:
        assert len(answer.content) < MOST_ANSWER_BYTES, f"{what}: an error of {len(answer.content)} bytes"
        assert CANARY not in answer.text, what


def test_no_text_of_a_client_is_stored_or_repeated_beyond_its_bound(rig) -> None:
    process = psutil.Process(rig.router_pid)
    rig.post(rig.body(stream=False, max_tokens=1))
    held = []
    for _ in range(ROUNDS):
        for what, body in BODIES.items():
            for _ in range(3):
                check_answer(rig.post({"model": rig.body()["model"], **body(LONG)}), what)
        held.append(process.memory_info().rss)
    for name in HEADERS:
        check_answer(rig.post(rig.body(stream=False, max_tokens=1), headers={name: LONG_HEADER}), name)
    for what, page in PAGES.items():
        check_answer(httpx.get(rig.url + page.format(quote(LONG_HEADER))), what)
    print("memory after each round, MB:", [round(bytes_ / 1e6, 1) for bytes_ in held])
    grown = held[-1] - held[0]
    assert grown < MOST_GROWTH_BYTES, f"memory grew by {grown} bytes"
    shown = signals(rig)
    assert CANARY.encode() not in shown
    assert b"x" * (BOUND + 1) not in shown
    longest = max(len(line) for line in rig.log.read_bytes().splitlines())
    assert longest < MOST_LINE_BYTES, f"a log line of {longest} bytes"


@pytest.mark.parametrize("what", [what for what in BODIES if what not in ("model", "an unknown key")])
def test_a_short_canary_is_in_no_signal(rig, what: str) -> None:
    rig.post({"model": rig.body()["model"], **BODIES[what](CANARY + what.replace(" ", "-"))})
    assert CANARY.encode() not in signals(rig)


@pytest.mark.parametrize("name", [name for name in HEADERS if name not in ("x-request-id", "x-client-id")])
def test_a_canary_in_a_header_is_in_no_signal(rig, name: str) -> None:
    rig.post(rig.body(stream=False, max_tokens=1), headers={name: CANARY})
    assert CANARY.encode() not in signals(rig)


def test_a_model_name_is_recorded_up_to_the_bound_and_as_its_length_beyond(rig) -> None:
    for size, recorded in ((BOUND, "x" * BOUND), (BOUND + 1, f"(longer than {BOUND} bytes)")):
        answer = rig.post({**rig.body(stream=False), "model": "x" * size})
        assert answer.status_code == 404
        assert recorded in answer.json()["error"]["message"]
        assert rig.record(answer.headers["x-request-id"])["model"] == recorded


def test_the_decisions_page_is_bounded_and_one_json_object(rig) -> None:
    for _ in range(150):
        rig.post(rig.body(stream=False, max_tokens=1))
    answer = httpx.get(f"{rig.url}/debug/decisions?limit=1000")
    listed = answer.json()["decisions"]
    assert listed[0]["outcome"] == "ok"
    assert len(answer.content) < 65_536 + 2 * len(listed)
    assert 10 < len(listed) < 150, "the ring is bounded in bytes"
    assert httpx.get(f"{rig.url}/debug/decisions?limit=0").json() == {"decisions": []}
    assert len(httpx.get(f"{rig.url}/debug/decisions?limit=2").json()["decisions"]) == 2


def test_the_dry_run_refuses_a_body_over_the_limit(rig) -> None:
    def parts():
        for _ in range(33):
            yield b" " * (1024 * 1024)

    answer = httpx.post(f"{rig.url}/debug/decide", content=parts(), timeout=30)
    assert answer.status_code == 413
    assert re.search(r"larger than \d+ bytes", json.loads(answer.content)["error"]["message"])
