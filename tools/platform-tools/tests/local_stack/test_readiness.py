"""A ready part can serve a request; otherwise the reason is reported as text."""

import http.server
import threading
from collections.abc import Iterator

import httpx
import pytest

from harness.ports import free_port
from platform_tools.local_stack.parts import Http, RedisPing, RouterReady
from platform_tools.local_stack.readiness import why_not_ready


class Page(http.server.BaseHTTPRequestHandler):
    """Responds with the class's status and body."""

    status = 200
    body = b""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def page() -> Iterator[tuple[str, type[Page]]]:
    handler = type("Handler", (Page,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", handler
        server.shutdown()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def test_200_is_ready(page: tuple[str, type[Page]], client: httpx.Client) -> None:
    assert why_not_ready(Http(page[0]), client) is None


def test_an_agents_state_and_evidence_are_the_reason(
    page: tuple[str, type[Page]], client: httpx.Client
) -> None:
    page[1].status = 503
    page[1].body = b'{"state": "warming", "evidence": ["warming for 3 s"]}'
    assert why_not_ready(Http(page[0]), client) == "answers 503 (warming, warming for 3 s)"


def test_a_router_whose_pool_is_empty_is_not_ready_yet(
    page: tuple[str, type[Page]], client: httpx.Client
) -> None:
    page[1].body = b'{"usable_backends": {"general": 1, "long-form": 0}}'
    assert why_not_ready(RouterReady(page[0]), client) == "no usable backend yet in pool long-form"
    page[1].body = b'{"usable_backends": {"general": 1, "long-form": 2}}'
    assert why_not_ready(RouterReady(page[0]), client) is None


def test_a_port_without_listener_is_no_part(client: httpx.Client) -> None:
    port = free_port()
    assert why_not_ready(Http(f"http://127.0.0.1:{port}/"), client) == "nothing listens yet"
    assert why_not_ready(RedisPing(port), client) == "nothing listens yet"
