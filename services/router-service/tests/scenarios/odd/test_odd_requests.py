"""Clients that send invalid bytes or go silent: the router responds in one error format and continues to serve."""

import json
import os
import signal
import socket
import subprocess
import time

import httpx
import pytest

from harness.servers.odd_bytes import ANSWER, DONE, chunked, error_of, in_front_of, raw_request, talk, text
from harness.servers.router_fleet import BIN, MODEL, fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service


@pytest.mark.parametrize("levels", [300, 400, 505, 5000])
@pytest.mark.parametrize("path", ["/v1/responses", "/debug/decide?path=/v1/responses"])
def test_tools_within_tools_are_refused_before_they_cost_a_stack(router, levels: int, path: str) -> None:
    body = (
        b'{"model":"%b","tools":' % MODEL.encode() + b'[{"content":' * levels + b'"x"' + b"}]" * levels + b"}"
    )
    answer = talk(router, raw_request(body, b"connection: close\r\n", path.encode()))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == "invalid_body"


def test_trailers_of_a_request_are_nobodys_headers(router, engine) -> None:
    engine.script = [ANSWER]
    body = json.dumps({"model": MODEL}).encode()
    talk(
        router,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n0\r\nx-client-id: evil\r\nx-late: 1\r\n\r\n" % (len(body), body),
    )
    head, received = engine.requests[-1]
    assert received == body
    assert b"x-late" not in head
    record = httpx.get(f"{router.url}/debug/decisions?limit=1").json()["decisions"][0]
    assert record["client_id"] == ""


@pytest.mark.parametrize(
    "sent",
    [
        b"NONSENSE\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nx-client-id: a\x7fb\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    ],
)
def test_what_is_no_http_is_refused_in_openais_shape(router, sent: bytes) -> None:
    answer = talk(router, sent)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == "invalid_http"
    assert b"x-request-id: " in answer


def test_garbage_after_a_request_never_lands_in_its_answer(router, engine) -> None:
    engine.script = [chunked(text("first"), end=b""), 0.5, b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE)]
    body = json.dumps({"model": MODEL, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", router.port), timeout=10) as connection:
        connection.sendall(raw_request(body))
        data = connection.recv(65536)
        connection.sendall(b"\x00garbage\r\n\r\n")
        while piece := connection.recv(65536):
            data += piece
    assert b"first" in data
    assert b"400 Bad Request" not in data


def test_a_body_that_never_ends_is_refused_at_its_limit_and_the_connection_closed(router) -> None:
    with socket.create_connection(("127.0.0.1", router.port), timeout=15) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        data = b""
        deadline = time.monotonic() + 60
        connection.settimeout(0.01)
        while time.monotonic() < deadline:
            try:
                connection.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
                piece = connection.recv(65536)
                if not piece:
                    break
                data += piece
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("the connection was never closed")
    assert data.startswith(b"HTTP/1.1 413 ")
    assert error_of(data)["code"] == "body_too_large"


@pytest.mark.parametrize(("query", "name"), [("limit=abc", "limit"), ("outcome=banana", "outcome")])
def test_a_question_about_decisions_that_makes_no_sense_says_which_value(
    router, query: str, name: str
) -> None:
    answer = httpx.get(f"{router.url}/debug/decisions?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == name
    assert name in answer.json()["error"]["message"]


def test_a_graceful_end_waits_for_nobody_who_stopped_talking(engine, tmp_path) -> None:
    """Half a head, half a body and a client that does not read do not keep the process alive."""
    block = b"data: " + b"x" * 65528 + b"\n\n"
    endless = chunked(*[block] * 100, end=b"")
    with fleet_in(tmp_path) as fleet:
        timeouts = {"connect_seconds": 1, "first_token_seconds": 2, "idle_seconds": 2, "total_seconds": 3}
        router = in_front_of(fleet, engine, timeouts=timeouts)
        engine.script = [endless, 8.0, "close"]
        body = json.dumps({"model": MODEL, "stream": True}).encode()
        with (
            socket.create_connection(("127.0.0.1", router.port)) as half_a_head,
            socket.create_connection(("127.0.0.1", router.port)) as half_a_body,
            socket.socket() as never_reads,
        ):
            half_a_head.sendall(b"POST /v1/chat")
            half_a_body.sendall(raw_request(b"{" * 100)[:-50])
            never_reads.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            never_reads.connect(("127.0.0.1", router.port))
            never_reads.sendall(raw_request(body))
            eventually(lambda: router.metric("router_in_flight") == 1, "it is being answered")
            assert router.process is not None
            os.kill(router.pid, signal.SIGTERM)
            assert router.process.wait(60) == 0
        assert '"event":"stopped"' in router.log.read_text()


def test_a_body_that_does_not_come_is_refused_when_the_requests_time_is_up(engine, tmp_path) -> None:
    with fleet_in(tmp_path) as fleet:
        timeouts = {"connect_seconds": 1, "first_token_seconds": 1, "idle_seconds": 1, "total_seconds": 2}
        router = in_front_of(fleet, engine, timeouts=timeouts)
        for sent in (raw_request(b"{" * 100)[:-50], raw_request(b"{" * 100)[:-100]):
            answer = talk(router, sent, 30)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert error_of(answer)["code"] == "request_timeout"
        records = httpx.get(f"{router.url}/debug/decisions?outcome=timeout").json()["decisions"]
        assert [record["status"] for record in records] == [408, 408]


def test_a_port_that_is_taken_and_a_variable_that_is_no_number_are_said(engine, tmp_path) -> None:
    config = tmp_path / "router.yaml"
    config.write_text(
        f"pools: {{p: {{models: [m], backends: {{a: {{url: '{engine.url}'}}}}}}}}\n"
        f"routing: {{default_pool: p}}\nserver: {{port: {engine.port}}}\n"
    )
    command = [BIN / "router-service", "serve", "--config", config]
    taken = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert taken.returncode == 1
    assert "address already in use" in taken.stdout
    odd = {**os.environ, "OTEL_TRACES_SAMPLER_ARG": "often"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=odd)
    assert done.returncode == 2
    assert 'OTEL_TRACES_SAMPLER_ARG: "often" is not a number from 0 to 1' in done.stderr
    assert "Traceback" not in done.stderr
