"""A stream is never cut: not by a timeout, not by a drain, not by a rolling restart of two edges."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from edge_gateway import drain as drain_module
from harness.background import Background
from harness.ports import free_port
from harness.servers.edges import CHAT, GOOD_BODY, Edge, running_edge
from harness.servers.recording_upstream import Manner, RecordingUpstream
from harness.servers.tcp_front import tcp_front
from platform_contracts import log_lines

pytestmark = pytest.mark.service

STREAM = {**GOOD_BODY, "stream": True}
DONE = "data: [DONE]\n\n"


def is_whole(text: str, chunks: int) -> bool:
    """Whether a stream holds every chunk in order and its terminal event."""
    expected = "".join(f"data: {json.dumps({'number': number})}\n\n" for number in range(chunks))
    return text == expected + DONE


def test_chunks_are_passed_on_as_they_come(edge: Edge, upstream: RecordingUpstream) -> None:
    """The upstream sends a chunk only when the client has the one before: a buffer in between would wait for ever."""
    upstream.manner = Manner(chunks=4, on_request=threading.Semaphore(0))
    text = ""
    with httpx.Client(timeout=30) as client:
        request = client.build_request("POST", edge.url + CHAT, json=STREAM, headers=edge.headers())
        answer = client.send(request, stream=True)
        asked = 0
        pieces = answer.iter_text()
        while DONE not in text:
            if text.count("\n\n") == asked:
                upstream.manner.on_request.release()
                asked += 1
            text += next(pieces)
    assert is_whole(text, 4)


def test_neither_a_long_stream_nor_a_long_silence_meets_envoys_default_of_15_seconds(
    edge: Edge, upstream: RecordingUpstream
) -> None:
    upstream.manner_of = lambda request: (
        Manner(chunks=17, chunk_seconds=1.0) if b"stream" in request.body else Manner(delay_seconds=17.0)
    )
    silent: list[int] = []

    def wait_for_silent_answer() -> None:
        silent.append(edge.post().status_code)

    waiting = threading.Thread(target=wait_for_silent_answer)
    waiting.start()
    answer = edge.post(STREAM)
    waiting.join()
    assert is_whole(answer.text, 17)
    assert silent == [200]


def test_an_answer_silent_beyond_the_limit_is_ended_with_a_proper_error(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    upstream.manner = Manner(delay_seconds=30)
    settings = {"timeouts": {"silent_answer_seconds": 1}}
    with running_edge(tmp_path, upstream.port, settings) as edge:
        answer = edge.post()
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"


def test_a_stream_the_router_breaks_off_reaches_the_client_as_broken(edge: Edge, tmp_path: Path) -> None:
    async def half_a_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b'10\r\ndata: {"half":1}\r\n')
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.transport.abort()

    async def ask() -> None:
        port = free_port()
        server = await asyncio.start_server(half_a_stream, "127.0.0.1", port)
        async with server:

            def through_an_edge() -> None:
                with running_edge(tmp_path, port) as own, pytest.raises(httpx.RemoteProtocolError):
                    own.post(STREAM)

            await asyncio.to_thread(through_an_edge)

    asyncio.run(ask())


def test_a_refused_connection_is_tried_exactly_once_more(tmp_path: Path) -> None:
    with running_edge(tmp_path, free_port()) as edge:
        answer = edge.post()
        assert answer.status_code == 503
        assert edge.access_line(answer.headers["x-request-id"])["attempts"] == 2
        assert edge.metric("envoy_cluster_upstream_rq_retry") == 1


# The stop hook.


def run_hook(
    edge: Edge, settle: float = 0.3, limit: float = 30.0, idle: float = 2.0
) -> "subprocess.CompletedProcess[str]":
    """Run the stop hook with nothing but the interpreter and the platform's own modules: no PATH, no shell."""
    call = f"drain.drain('127.0.0.1', {edge.admin_port}, {settle}, {idle}, {limit})"
    sources = [str(Path(module.__file__).parents[1]) for module in (drain_module, log_lines)]
    script = f"import sys; sys.path[:0] = {sources}; from edge_gateway import drain; sys.exit({call})"
    command = [os.path.realpath(sys.executable), "-I", "-S", "-c", script]
    return subprocess.run(command, env={}, cwd="/", capture_output=True, text=True, timeout=60, check=False)


def test_the_hook_lets_a_stream_finish_and_keeps_telemetry(
    tmp_path: Path, upstream: RecordingUpstream
) -> None:
    upstream.manner = Manner(chunks=40, chunk_seconds=0.1)
    # Whoever comes late is served until the listener closes: it must still be open when the hook has ended.
    with running_edge(tmp_path, upstream.port, {"timeouts": {"drain_seconds": 60}}) as edge:
        texts: list[str] = []
        streaming = threading.Thread(target=lambda: texts.append(edge.post(STREAM).text))
        streaming.start()
        while upstream.count == 0:
            time.sleep(0.01)
        seen: list[int] = []
        hook: list[subprocess.CompletedProcess[str]] = []
        hooking = threading.Thread(target=lambda: hook.append(run_hook(edge, settle=1.0)))
        hooking.start()
        deadline = time.monotonic() + 10
        while 503 not in seen and time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                seen.append(httpx.get(edge.url + "/healthz").status_code)
            time.sleep(0.05)
        assert 503 in seen, "load balancers must be told before the listener closes"
        hooking.join()
        streaming.join()
        assert hook[0].returncode == 0, hook[0].stderr
        assert is_whole(texts[0], 40)
        assert httpx.get(f"http://127.0.0.1:{edge.telemetry_port}/stats/prometheus").status_code == 200
        late = edge.post()
        assert late.status_code == 200, "who comes late over an old address is still served"
        assert late.headers["connection"] == "close"
        assert edge.process.poll() is None, "the hook drains; stopping is the supervisor's"


def test_the_hook_reports_when_its_time_is_not_enough(tmp_path: Path, upstream: RecordingUpstream) -> None:
    go_on = threading.Semaphore(0)
    upstream.manner = Manner(chunks=5, on_request=go_on)
    with running_edge(tmp_path, upstream.port) as edge:
        streaming = threading.Thread(target=lambda: edge.post(STREAM))
        streaming.start()
        while upstream.count == 0:
            time.sleep(0.01)
        assert run_hook(edge, settle=0.1, limit=1.0).returncode == 1
        for _ in range(5):
            go_on.release()
        streaming.join()


def test_the_hook_has_nothing_to_do_without_an_envoy() -> None:
    assert drain_module.drain("127.0.0.1", free_port(), 0.0, 0.0, 1.0) == 0


# Two edges behind a load balancer, restarted one after the other.

REQUESTS_PER_SECOND = 50
OPEN_STREAMS = 20
CHUNKS = 40


class Clients(Background):
    """Paced short requests and always-open streams to ``url`` in a thread, until the block ends."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        super().__init__()
        self._url, self._headers = url, headers
        self.problems: list[str] = []
        self.requests = 0
        self.streams = 0

    def work(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2.0)
        async with httpx.AsyncClient(timeout=30, limits=limits, headers=self._headers) as client:
            await asyncio.gather(self._paced(client), *(self._stream(client) for _ in range(OPEN_STREAMS)))

    async def _paced(self, client: httpx.AsyncClient) -> None:
        tasks: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self.stop.is_set():
            tasks.add(asyncio.create_task(self._one(client)))
            due += 1 / REQUESTS_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)

    async def _one(self, client: httpx.AsyncClient) -> None:
        self.requests += 1
        try:
            answer = await client.post(self._url, json=GOOD_BODY)
            if answer.status_code != 200:
                self.problems.append(f"failed: {answer.status_code} {answer.text}")
        except httpx.TransportError as error:
            self.problems.append(f"failed: {error!r}")

    async def _stream(self, client: httpx.AsyncClient) -> None:
        while not self.stop.is_set():
            self.streams += 1
            try:
                answer = await client.post(self._url, json=STREAM)
                if answer.status_code != 200 or not is_whole(answer.text, CHUNKS):
                    self.problems.append(f"truncated: {answer.status_code} {answer.text[-100:]}")
            except httpx.TransportError as error:
                self.problems.append(f"truncated: {error!r}")


def test_a_rolling_restart_of_two_edges_loses_nothing(tmp_path: Path, upstream: RecordingUpstream) -> None:
    upstream.manner = Manner(chunks=CHUNKS, chunk_seconds=0.05)
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as whole:
        running = [
            (whole.enter_context(contextlib.ExitStack()), port, number) for number, port in enumerate(ports)
        ]
        edges = [
            stack.enter_context(running_edge(tmp_path / f"{number}-old", upstream.port, port=port))
            for stack, port, number in running
        ]
        front = whole.enter_context(tcp_front(ports))
        while not all(front.healthy.values()):
            time.sleep(0.05)
        with Clients(f"http://127.0.0.1:{front.port}{CHAT}", edges[0].headers()) as clients:
            time.sleep(1.0)
            for (stack, port, number), edge in zip(running, edges, strict=True):
                hook = run_hook(edge, settle=1.0)
                assert hook.returncode == 0, hook.stderr
                stack.close()  # SIGTERM, as the supervisor or the kubelet sends it after the hook
                stack.enter_context(running_edge(tmp_path / f"{number}-new", upstream.port, port=port))
                while not front.healthy[port]:
                    time.sleep(0.05)
            time.sleep(1.0)
    print(f"{clients.requests} requests, {clients.streams} streams, {len(clients.problems)} lost")
    assert clients.problems == []
    assert clients.requests > 100
    assert clients.streams > OPEN_STREAMS
