"""The client packages that applications use make their usual calls against a router and an engine simulator.

The simulator answers 501 to tools and structured output.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.npm import installed
from harness.servers.router_fleet import MODEL, RouterPart, fleet_in
from harness.servers.scripted_engine import scripted_engine

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[4]
LOCK = ROOT / "requirements" / "clients.lock"
JAVASCRIPT = Path(__file__).parent / "client_packages"
CALLS = ROOT / "tests" / "harness" / "clients" / "calls.py"
ALIAS = "meta-llama/Llama-3.1-8B-Instruct"
BROKEN = "breaks-off"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


CHOICE = {"index": 0, "delta": {"content": "a"}}
CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [CHOICE]}
CHAT = f"data: {json.dumps(CHUNK)}\n\n".encode()
RESPONSE = event(
    "response.output_text.delta",
    delta="a",
    item_id="i",
    output_index=0,
    content_index=0,
    sequence_number=1,
    logprobs=[],
)
STARTED = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
}
MESSAGE = (
    event("message_start", message={**STARTED, "usage": {"input_tokens": 1, "output_tokens": 0}})
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
)


@pytest.fixture(scope="session")
def clients_python() -> Path:
    """Return the Python of the client packages' environment, installed again if its lock file has changed."""
    folder = ROOT / ".venv-clients"
    python, mark = folder / "bin" / "python", folder / ".lock-digest"
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not mark.is_file() or mark.read_text() != digest:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [python, "-m", "pip", "install", "-q", "--require-hashes", "--no-deps", "-r", LOCK]
        subprocess.run(install, check=True)
        mark.write_text(digest)
    return python


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterPart]:
    with fleet_in(tmp_path_factory.mktemp("clients")) as fleet, scripted_engine() as scripted:
        scripted.script = []
        engine = fleet.add_engine("engine-a")
        router = fleet.add_router(
            wait_usable=1,
            pools={
                "general": {
                    "models": [MODEL],
                    "aliases": {ALIAS: MODEL},
                    "backends": {"engine-a": {"url": engine.url}},
                },
                "broken": {"models": [BROKEN], "backends": {"engine-b": {"url": scripted.url}}},
            },
            breaker={"failures": 10_000},
        )
        router.scripted = scripted  # type: ignore[attr-defined]
        yield router


def calls(router: RouterPart, python: Path, package: str, first: bytes) -> dict[str, Any]:
    """Run a package's calls; ``first`` is what the broken engine sends before its connection is lost."""
    breaks_off_after(router, first)
    return run(python, CALLS, package, router.url, ALIAS, BROKEN)


def breaks_off_after(router: RouterPart, first: bytes) -> None:
    router.scripted.script = [SSE + b"%x\r\n%b\r\n" % (len(first), first), "close"]  # type: ignore[attr-defined]


def run(*command: str | Path, cwd: Path | None = None) -> dict[str, Any]:
    """Run a program that prints one JSON object on its last line."""
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_openai(router, clients_python) -> None:
    found = calls(router, clients_python, "openai", CHAT)
    assert ALIAS in found.pop("listed")
    found.pop("broken_response")
    assert found == {
        "retrieved": ALIAS,
        "chat": [ALIAS, 5],
        "streamed": True,
        "response": ALIAS,
        "response_stream": ["response.created", "response.completed"],
        "completion": 5,
        "embedding": 1,
        "heard": [True, True],
        "heard_stream": ["transcription.chunk", ALIAS],
        "tools": "InternalServerError",
        "structured": "InternalServerError",
        "unknown": "NotFoundError",
        "broken": "APIError",
    }
    assert calls(router, clients_python, "openai", RESPONSE)["broken_response"] == "APIError"


def test_anthropic(router, clients_python) -> None:
    assert calls(router, clients_python, "anthropic", MESSAGE) == {
        "message": [ALIAS, 5, "max_tokens"],
        "streamed": [True, 5],
        "counted": True,
        "tools": "HTTPNotImplementedError",
        "unknown": "NotFoundError",
        "broken": "APIStatusError",
    }


def test_litellm(router, clients_python) -> None:
    assert calls(router, clients_python, "litellm", CHAT) == {
        "chat": [ALIAS, 5],
        "streamed": True,
        "message": [5, "length"],
        "response": ALIAS,
        "embedding": 1,
        "tools": "APIError",
        "unknown": "NotFoundError",
        "unknown_message": "NotFoundError",
        "broken": "MidStreamFallbackError",
    }


def test_langchain(router, clients_python) -> None:
    assert calls(router, clients_python, "langchain", CHAT) == {
        "chat": [ALIAS, 5],
        "streamed": True,
        "responses": 5,
        "message": 5,
        "message_streamed": True,
        "embedding": 1,
        "tools": "OpenAIAPIError",
        "structured": "OpenAIAPIError",
        "unknown": "OpenAIModelNotFoundError",
        "unknown_message": "AnthropicModelNotFoundError",
        "broken": "APIError",
    }


AI_SDK = {
    "text": True,
    "tokens": 5,
    "finish": "length",
    "streamed": [True, 5],
    "tools": 501,
    "object": 501,
    "unknown": 404,
    "broken": True,
}


def test_openai_in_javascript_and_the_ai_sdk(router) -> None:
    breaks_off_after(router, CHAT)
    found = run("node", "calls.mjs", router.url, ALIAS, BROKEN, cwd=installed(JAVASCRIPT))
    assert found.pop("openai") == {
        "listed": True,
        "retrieved": ALIAS,
        "chat": [ALIAS, 5],
        "streamed": True,
        "response": ALIAS,
        "response_stream": ["response.created", "response.completed"],
        "tools": 501,
        "unknown": 404,
        "broken": "APIError",
    }
    assert found == {"compatible": AI_SDK, "responses": AI_SDK, "anthropic": AI_SDK}
