"""Attack: one client fills every slot of requests that wait for an engine to start."""

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.edges import CHAT, CLIENT_KEY, LOAD_KEY, Edge, running_edge
from harness.servers.router_fleet import BIN, MODEL, fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service

SLOTS = 8
OWN_REQUESTS = 3
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def test_a_client_that_fills_the_hold_slots_makes_room_for_another(tmp_path: Path) -> None:
    port = free_port()
    pool = {
        "models": [MODEL],
        "backends": {"one": {"url": f"http://127.0.0.1:{port}"}},
        "when_none_ready": {"hold_seconds": 60, "slots": SLOTS},
    }
    with fleet_in(tmp_path) as fleet, contextlib.ExitStack() as opened:
        timeouts = {"first_token_seconds": 20, "idle_seconds": 20, "total_seconds": 120}
        router = fleet.add_router(wait_usable=0, pools={"general": pool}, timeouts=timeouts)
        edge = opened.enter_context(running_edge(tmp_path / "edge", router.port))
        hostile = [waiting_post(edge, opened) for _ in range(3 * SLOTS)]
        eventually(lambda: router.metric("router_held_requests") == SLOTS, "every slot is taken")
        refused = eventually(lambda: [c for c in hostile if status_of(c)], "the others are refused")
        assert {status_of(client) for client in refused} == {503}
        with ThreadPoolExecutor(OWN_REQUESTS) as threads:
            own = [threads.submit(edge.post, BODY, CHAT, CLIENT_KEY) for _ in range(OWN_REQUESTS)]
            gave_way = 2 * SLOTS + OWN_REQUESTS
            eventually(
                lambda: sum(status_of(c) == 503 for c in hostile) == gave_way, "the hostile client gives way"
            )
            # It sends again at once, and the other client keeps its slots.
            more = [waiting_post(edge, opened) for _ in range(SLOTS)]
            eventually(lambda: [status_of(client) for client in more] == [503] * SLOTS, "it is refused")
            assert router.metric("router_held_requests") == SLOTS
            assert not any(one.done() for one in own)
            command = [BIN / "engine-simulator", "serve", "--port", str(port), "--model", MODEL]
            ready = answers(f"http://127.0.0.1:{port}/health")
            opened.enter_context(running(command, log=tmp_path / "engine.log", ready=ready))
            assert [one.result(60).status_code for one in own] == [200] * OWN_REQUESTS


def waiting_post(edge: Edge, opened: contextlib.ExitStack) -> socket.socket:
    """Send a request of the hostile client and return its connection."""
    body = json.dumps(BODY).encode()
    client = opened.enter_context(socket.create_connection(("127.0.0.1", edge.port), timeout=20))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {LOAD_KEY}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    client.setblocking(False)
    return client


def status_of(client: socket.socket) -> int | None:
    """Return the status that has arrived on a connection, None if none has."""
    with contextlib.suppress(BlockingIOError):
        data = client.recv(64, socket.MSG_PEEK)
        return int(data.split(b" ")[1]) if data else 0
    return None
