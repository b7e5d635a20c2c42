"""A client that does not read slows only its own engine request, and the router buffers little for it."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.servers.router_fleet import MODEL, Fleet, RouterPart, fleet_in
from harness.servers.scripted_engine import ScriptedEngine, Step, scripted_engine
from harness.waiting import eventually

pytestmark = pytest.mark.service

IDLE_SECONDS = 1.0
BLOCKS = 1500
BLOCK_BYTES = 65_536
"""Size of one event of the engine; all events together are 98 MB: kernels buffer some MB before a send blocks."""

MOST_HELD_BYTES = 8 * 1024 * 1024
"""Allowed growth of the router's memory during this time; the relay's own buffers are a few hundred kB."""

PLAIN = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n{"a":1}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        yield fleet


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as engine:
        yield engine


def event(number: int) -> bytes:
    """Return a unique event of ``BLOCK_BYTES``."""
    begin = b'data: {"id":"%06d","choices":[{"index":0,"delta":{"content":"' % number
    end = b'"}}]}\n\n'
    return begin + b"%d" % (number % 10) * (BLOCK_BYTES - len(begin) - len(end)) + end


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))


def ask_without_reading(router: RouterPart) -> socket.socket:
    body = json.dumps(
        {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", router.port))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    return connection


def stands_still(engine: ScriptedEngine, seconds: float) -> bool:
    """True when it has begun its long answer and handed over nothing more for ``seconds``."""
    before = engine.handed_over
    time.sleep(seconds)
    return before > 2 * BLOCK_BYTES and engine.handed_over == before


@pytest.fixture
def router(fleet: Fleet, engine: ScriptedEngine) -> RouterPart:
    """A router that has served a request, in front of the engine alone."""
    timeouts = {
        "connect_seconds": 5,
        "first_token_seconds": 30,
        "idle_seconds": IDLE_SECONDS,
        "total_seconds": 110,
    }
    pools = {"general": {"models": [MODEL], "backends": {"raw": {"url": engine.url}}}}
    router = fleet.add_router(wait_usable=1, pools=pools, timeouts=timeouts)
    engine.script = [PLAIN]
    assert router.post().status_code == 200
    return router


def long_script() -> list[Step]:
    return [HEAD, *(chunk(event(number)) for number in range(BLOCKS)), chunk(DONE) + b"0\r\n\r\n"]


def test_a_client_that_does_not_read_holds_its_engine_back_and_gets_every_byte(
    router: RouterPart, engine: ScriptedEngine
) -> None:
    wanted = hashlib.sha256(b"".join(event(number) for number in range(BLOCKS)) + DONE).hexdigest()
    engine.script = long_script()
    size = sum(len(step) for step in engine.script if isinstance(step, bytes))
    memory, handed_over = resident_bytes(router.pid), engine.handed_over

    with ask_without_reading(router) as connection:
        eventually(lambda: stands_still(engine, 0.5), "the engine's send blocks")
        taken = engine.handed_over - handed_over
        grown = resident_bytes(router.pid) - memory
        print(f"the engine handed over {taken} of {size} bytes, the router grew by {grown}")
        assert taken < size / 2, f"{taken} of {size} bytes were taken although nobody reads"
        assert grown < MOST_HELD_BYTES, f"the router grew by {grown} bytes"

        engine.script = [PLAIN]  # the stream under way keeps the script it began with
        answers = [router.post() for _ in range(20)]
        assert [answer.json() for answer in answers] == [{"a": 1}] * 20, (
            "others are served by the same engine"
        )
        assert stands_still(engine, 2 * IDLE_SECONDS), "a client's slowness is not the engine's silence"
        assert router.metric("router_in_flight") == 1
        assert resident_bytes(router.pid) - memory < MOST_HELD_BYTES

        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        got = hashlib.sha256()
        while piece := answer.read(1024 * 1024):
            got.update(piece)
    assert answer.status == 200
    assert got.hexdigest() == wanted, "every byte, in order"
    assert resident_bytes(router.pid) - memory < MOST_HELD_BYTES
    record = router.record(answer.headers["x-request-id"])
    assert record["outcome"] == "ok"
    assert router.metric("router_in_flight") == 0


def test_a_client_that_leaves_without_having_read_frees_its_engine_within_a_second(
    router: RouterPart, engine: ScriptedEngine
) -> None:
    """The router reads nothing from the engine then, so it must abort the engine's send and not wait for it."""
    engine.script = long_script()
    with ask_without_reading(router):
        eventually(lambda: stands_still(engine, 0.5), "the engine's send blocks")
        assert engine.cut == 0
        left = time.monotonic()
    eventually(lambda: engine.cut == 1, "the engine's send has ended", 10, 0.01)
    seconds = time.monotonic() - left
    print(f"the engine saw it {seconds:.3f} s after the client left")
    assert seconds <= 1.0, f"the engine saw it {seconds:.3f} s after the client left"
    eventually(lambda: router.metric("router_in_flight") == 0, "nothing is in flight")
    (record,) = httpx.get(f"{router.url}/debug/decisions?outcome=cancelled").json()["decisions"]
    assert record["status"] == 499
