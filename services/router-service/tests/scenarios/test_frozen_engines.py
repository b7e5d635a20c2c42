"""Engines and agents stopped with SIGSTOP while requests run: waiting requests move, and begun streams end in time."""

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.servers.router_fleet import MODEL, Engine, Fleet, RouterPart, fleet_in
from harness.waiting import eventually
from platform_contracts.event_streams import chunks

pytestmark = pytest.mark.service

APIS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
TERMINALS = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/responses": b"event: response.completed\n",
    "/v1/messages": b"event: message_stop\n",
}
NO_BUDGET = {"max_attempts": 3, "budget_ratio": 0, "budget_min": 0}
FAR = {"connect_seconds": 5, "first_token_seconds": 300, "idle_seconds": 300, "total_seconds": 600}


def body(max_tokens: int, stream: bool) -> dict[str, Any]:
    return {
        "model": MODEL, "prompt": "Hello", "input": "Hello", "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": max_tokens, "max_output_tokens": max_tokens, "ignore_eos": True, "stream": stream,
    }  # fmt: skip


def ask(
    router: RouterPart, path: str, stream: bool, name: str, max_tokens: int = 3
) -> tuple[int, bytes, bool]:
    """Return status, body, and whether the body came to its end."""
    data, whole = b"", False
    fields = {"/v1/chat/completions": "messages", "/v1/messages": "messages", "/v1/responses": "input"}
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    wanted = {"model", "stream", "ignore_eos", fields.get(path, "prompt"), limit}
    sent = {key: value for key, value in body(max_tokens, stream).items() if key in wanted}
    headers = {"x-request-id": name}
    with (
        httpx.stream("POST", router.url + path, json=sent, headers=headers, timeout=60) as answer,
        contextlib.suppress(httpx.RemoteProtocolError),
    ):
        for piece in answer.iter_raw():
            data += piece
        whole = True
    return answer.status_code, data, whole


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        yield fleet


@contextlib.contextmanager
def agent() -> Iterator[tuple[str, list[str]]]:
    """An agent whose state a test sets: its URL, and a list whose last item is the state."""
    said = ["working"]

    class Says(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer = json.dumps({"backend": "engine-a", "state": said[-1]}).encode()
            self.send_response(200 if said[-1] == "working" else 503)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Says)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/readyz", said
    finally:
        server.shutdown()
        server.server_close()


def with_held_requests(fleet: Fleet, health_url: str = "") -> tuple[RouterPart, Engine]:
    """Start a router that uses only engine-a, which holds requests before their first token; engine-b is ended."""
    held = fleet.add_engine("engine-a")
    other = fleet.add_engine("engine-b")
    other.end()
    backends = {"engine-a": {"url": held.url}, "engine-b": {"url": other.url}}
    if health_url:
        backends["engine-a"]["health_url"] = health_url
    router = fleet.add_router(
        wait_usable=1,
        pools={"general": {"models": [MODEL], "backends": backends}},
        retries=NO_BUDGET,
        timeouts=FAR,
        health={"interval_seconds": 0.2, "timeout_seconds": 1},
    )
    held.fault("stall_first_byte")
    return router, held


def check_moved(router: RouterPart, names: list[str], found: list[tuple[int, bytes, bool]], why: str) -> None:
    for name, (status, data, whole) in zip(names, found, strict=True):
        assert (status, whole) == (200, True), (name, data)
        attempts = router.record(name)["attempts"]
        assert [(a["backend"], a["outcome"]) for a in attempts] == [
            ("engine-a", "backend_lost"),
            ("engine-b", "complete"),
        ]
        assert attempts[0]["detail"] == f"the backend was found {why}"
    lost = router.metric("router_attempts_total", outcome="backend_lost")
    assert lost == len(names)


@pytest.mark.parametrize("kind", ["frozen engine", "silent agent", "stuck by its device"])
def test_held_requests_of_every_api_are_made_elsewhere_without_the_budget(fleet: Fleet, kind: str) -> None:
    with agent() as (url, said), ThreadPoolExecutor(16) as threads:
        speaker = fleet.add_engine("agent-of-a") if kind == "silent agent" else None
        health_url = {"frozen engine": "", "stuck by its device": url}.get(
            kind, f"{speaker and speaker.url}/health"
        )
        router, held = with_held_requests(fleet, health_url)
        asked, names = [], []
        for path in APIS:
            for stream in (False, True):
                names.append(f"{path[1:].replace('/', '.')}-{stream}")
                asked.append(threads.submit(ask, router, path, stream, names[-1]))
        eventually(lambda: held.hits("stall_first_byte") == len(names), "every request is held")
        fleet.engines["engine-b"].start()
        eventually(lambda: router.usable() == 2, "the other engine is usable")
        assert not any(each.done() for each in asked)
        if kind == "frozen engine":
            held.freeze()
        elif speaker is not None:
            speaker.freeze()
        else:
            said.append("stuck")
        try:
            found = [each.result(60) for each in asked]
        finally:
            held.kill()  # A graceful end would wait for its stalled requests.
            if speaker is not None:
                speaker.thaw()
    check_moved(router, names, found, "stuck" if kind == "stuck by its device" else "unreachable")
    for name, (_, data, _) in zip(names, found, strict=True):
        if name.endswith("True"):
            path = "/" + name.removesuffix("-True").replace(".", "/")
            assert TERMINALS[path] in data


def test_begun_streams_of_a_frozen_engine_end_with_one_error_event_in_their_apis_form(fleet: Fleet) -> None:
    engine = fleet.add_engine("engine-a", "--step-seconds", "0.05")
    router = fleet.add_router(timeouts={**FAR, "idle_seconds": 1.5}, retries=NO_BUDGET)
    names = [path[1:].replace("/", ".") for path in APIS]
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, router, p, True, n, 900) for p, n in zip(APIS, names, strict=True)]
        waiting = [lambda name=name: _begun(router, name) for name in names]
        for name, begun in zip(names, waiting, strict=True):
            eventually(begun, f"{name} has begun")
        engine.freeze()
        try:
            found = [each.result(60) for each in asked]
        finally:
            engine.thaw()
    for path, name, (status, data, whole) in zip(APIS, names, found, strict=True):
        assert (status, whole) == (200, False)
        assert TERMINALS[path] not in data
        events = [event for event in data.split(b"\n\n") if event]
        assert [event for event in events if b'"error"' in event] == events[-1:]
        named = path in ("/v1/responses", "/v1/messages")
        assert events[-1].startswith(b"event: error\ndata: " if named else b'data: {"error"')
        told = json.loads(events[-1].split(b"data: ", 1)[1])
        assert (told.get("type") == "error") is named
        assert "idle_seconds" in told["error"]["message"]
        assert [attempt["outcome"] for attempt in router.record(name)["attempts"]] == ["idle_timeout"]


def _begun(router: RouterPart, name: str) -> bool:
    answer = httpx.get(f"{router.url}/debug/decisions/{name}")
    return answer.status_code == 200 and answer.json().get("running", {}).get("waits_for") == "next_token"


def test_a_begun_stream_of_a_frozen_engine_is_resumed_where_the_rule_says_so(fleet: Fleet) -> None:
    engines = [fleet.add_engine(f"engine-{letter}", "--step-seconds", "0.02") for letter in "ab"]
    rules = {
        "rules": [{"name": "kept", "when": {"max_tokens_gte": 1}, "route_to": "general", "resume": True}]
    }
    (fleet.folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    router = fleet.add_router(
        timeouts={**FAR, "idle_seconds": 1.5},
        routing={"default_pool": "general", "rules_file": "rules.yaml"},
    )
    with ThreadPoolExecutor(8) as threads:
        names = [f"resumed-{number}" for number in range(4)]
        asked = [threads.submit(ask, router, APIS[0], True, name, 150) for name in names]
        for name in names:
            eventually(lambda name=name: _begun(router, name), f"{name} has begun")
        engines[0].freeze()
        try:
            found = [each.result(60) for each in asked]
        finally:
            engines[0].thaw()
    resumed = 0
    for name, (status, data, whole) in zip(names, found, strict=True):
        assert (status, whole, data.count(b"data: [DONE]")) == (200, True, 1)
        attempts = [(a["backend"], a["outcome"]) for a in router.record(name)["attempts"]]
        resumed += attempts == [("engine-a", "idle_timeout"), ("engine-b", "complete")]
        assert sum(bool(c.get("finish_reason")) for chunk in chunks(data) for c in chunk["choices"]) == 1
    assert resumed, "no stream was at the frozen engine"
