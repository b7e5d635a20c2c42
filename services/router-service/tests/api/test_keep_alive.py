"""One timer closes a connection that was idle for the whole keep-alive timeout, and no other."""

from types import SimpleNamespace
from typing import Any

import pytest

from router_service.api.uvicorn_relay import RelayProtocol

SECONDS = 5


class Loop:
    """A clock with at most one timer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: float | None = None
        self.set = 0

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Any) -> Any:
        assert self.due is None, "a second timer"
        self.due, self._call = self.now + seconds, call
        self.set += 1
        return SimpleNamespace(cancel=self.cancel)

    def cancel(self) -> None:
        self.due = None

    def pass_to(self, now: float) -> None:
        """Let time pass, and fire the timer as often as it is due."""
        while self.due is not None and self.due <= now:
            self.now, self.due = self.due, None
            self._call()
        self.now = now


@pytest.fixture
def connection() -> Any:
    protocol: Any = RelayProtocol.__new__(RelayProtocol)
    protocol.closed = False

    def close() -> None:
        protocol.closed = True

    protocol.loop = Loop()
    protocol.transport = SimpleNamespace(is_closing=lambda: protocol.closed, close=close)
    protocol.flow = SimpleNamespace(resume_reading=lambda: None)
    protocol.server_state = SimpleNamespace(total_requests=0)
    protocol.pipeline = []
    protocol.timeout_keep_alive_task = None
    protocol.timeout_keep_alive = SECONDS
    return protocol


def test_an_idle_connection_is_closed_on_time(connection) -> None:
    connection.on_response_complete()
    connection.loop.pass_to(100 + SECONDS - 0.1)
    assert not connection.closed
    connection.loop.pass_to(100 + SECONDS)
    assert connection.closed


def test_requests_within_the_timeout_keep_it_open_with_few_timers(connection) -> None:
    for number in range(1000):
        connection.on_response_complete()
        connection.loop.pass_to(100 + number * 0.1)
        connection._unset_keepalive_if_required()
    connection.on_response_complete()
    assert not connection.closed
    assert connection.loop.set <= 100 / SECONDS + 2
    connection.loop.pass_to(connection.loop.now + SECONDS)
    assert connection.closed
    assert connection.server_state.total_requests == 1001


def test_a_request_that_runs_past_the_timeout_is_not_cut(connection) -> None:
    connection.on_response_complete()
    connection.loop.pass_to(101)
    connection._unset_keepalive_if_required()
    connection.loop.pass_to(200)
    assert not connection.closed
    connection.on_response_complete()
    connection.loop.pass_to(200 + SECONDS - 0.1)
    assert not connection.closed
    connection.loop.pass_to(200 + SECONDS)
    assert connection.closed


def test_a_pipelined_request_is_started_instead(connection) -> None:
    started = []
    connection._start_asgi_task = lambda *task: started.append(task)
    connection.pipeline = [("cycle", "app")]
    connection.on_response_complete()
    assert started == [("cycle", "app")]
    assert connection.loop.set == 0
