"""The internals of uvicorn that the fast relay uses exist in the pinned version."""

import inspect
from importlib.metadata import version
from types import SimpleNamespace

from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router_service.api.uvicorn_relay import RelayProtocol, TransportRelay


def test_the_pinned_version_is_the_one_that_was_read() -> None:
    assert version("uvicorn") == "0.54.0"


def test_the_protocol_and_its_cycle_have_what_the_relay_uses() -> None:
    made = inspect.getsource(HttpToolsProtocol.__init__) + inspect.getsource(
        HttpToolsProtocol.connection_made
    )
    for name in (
        "cycle",
        "flow",
        "transport",
        "scope",
        "server_state",
        "pipeline",
        "timeout_keep_alive_task",
    ):
        assert f"self.{name}" in made
    cycle = inspect.getsource(RequestResponseCycle.__init__)
    for name in (
        "scope", "keep_alive", "disconnected", "waiting_for_100_continue", "response_started",
        "response_complete", "message_event", "on_response", "body", "more_body",
    ):  # fmt: skip
        assert f"self.{name}" in cycle
    assert "write_paused" in inspect.getsource(FlowControl.__init__)
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"


def test_a_body_is_taken_as_uvicorn_itself_would_have_given_it() -> None:
    receive = inspect.getsource(RequestResponseCycle.receive)
    for step in ("self.flow.resume_reading()", "bytes(self.body)", "self.body = bytearray()"):
        assert step in receive


def test_a_finished_answer_is_what_uvicorn_itself_would_have_done() -> None:
    send = inspect.getsource(RequestResponseCycle.send)
    end = send[send.index("# Handle response completion") :]
    for step in (
        "self.response_complete = True",
        "self.message_event.set()",
        "self.transport.close()",
        "self.on_response()",
    ):
        assert step in end


def test_the_overridden_callbacks_exist() -> None:
    for name in (
        "on_headers_complete", "connection_lost", "pause_writing", "resume_writing", "send_400_response",
        "on_response_complete", "timeout_keep_alive_handler", "_unset_keepalive_if_required",
    ):  # fmt: skip
        assert getattr(RelayProtocol, name) is not getattr(HttpToolsProtocol, name)
        assert callable(getattr(httptools_impl.HttpToolsProtocol, name))


def test_a_complete_response_takes_the_steps_that_uvicorn_takes() -> None:
    source = inspect.getsource(HttpToolsProtocol.on_response_complete)
    for step in (
        "self.server_state.total_requests += 1",
        "if self.transport.is_closing():",
        "self.flow.resume_reading()",
        "self.pipeline.pop()",
        "self.timeout_keep_alive, self.timeout_keep_alive_handler",
    ):
        assert step in source


def test_after_a_connection_is_lost_uvicorn_itself_asks_for_nothing_that_was_let_go() -> None:
    send = inspect.getsource(RequestResponseCycle.send)
    assert "if self.disconnected:\n            return" in send, "a finished answer is not reported any more"
    lost = inspect.getsource(HttpToolsProtocol.connection_lost)
    assert "self.cycle.disconnected = True" in lost
    assert callable(HttpToolsProtocol._unset_keepalive_if_required)


def test_a_client_found_leaving_is_not_answered_by_uvicorn_either() -> None:
    """The transport is closing and has not told uvicorn yet: it would answer 500 where a request ends without."""
    source = inspect.getsource(RequestResponseCycle.run_asgi)
    assert "if not self.response_started and not self.disconnected:" in source
    transport = SimpleNamespace(is_closing=lambda: True)
    cycle = SimpleNamespace(disconnected=False)
    relay = TransportRelay(SimpleNamespace(transport=transport), cycle)  # type: ignore[arg-type]
    gone: list[bool] = []
    relay.listen(SimpleNamespace(client_gone=lambda: gone.append(True)))  # type: ignore[arg-type]
    assert gone == [True]
    assert relay.gone
    assert cycle.disconnected
