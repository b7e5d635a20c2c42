"""The edge balances over router replicas, checks each, and sends an unanswered request to another one once."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.dead_link import far_host
from harness.name_server import name_server
from harness.ports import free_port
from harness.servers.edges import (
    CHAT,
    GOOD_BODY,
    Edge,
    running_edge,
    running_rate_limit_service,
    running_redis,
)
from harness.servers.recording_upstream import Manner, RecordingUpstream, recording_upstream
from harness.servers.router_fleet import fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service

STREAM = {**GOOD_BODY, "stream": True}
# A node that is gone is noticed within 15 s; a request to it must not hang longer than 20 s.
LONGEST_HANG_SECONDS = 20.0


def replicas(*upstreams: RecordingUpstream) -> dict[str, Any]:
    return {"router": {"replicas": [{"host": each.host, "port": each.port} for each in upstreams]}}


@pytest.fixture
def pair() -> Iterator[tuple[RecordingUpstream, RecordingUpstream]]:
    with recording_upstream() as one, recording_upstream() as other:
        yield one, other


def hang_up_on_first(first: RecordingUpstream, second: RecordingUpstream) -> None:
    """Let whichever replica gets the first request close without an answer; the other answers."""
    lock = threading.Lock()
    met: list[int] = []

    def manner(_: object) -> Manner:
        with lock:
            met.append(1)
            return Manner(hang_up=len(met) == 1)

    first.manner_of = second.manner_of = manner


def test_an_unanswered_request_is_sent_to_another_router_once(
    tmp_path: Path, pair: tuple[RecordingUpstream, RecordingUpstream]
) -> None:
    hang_up_on_first(*pair)
    with running_edge(tmp_path, pair[0].port, replicas(*pair)) as edge:
        answer = edge.post()
        line = edge.access_line(answer.headers["x-request-id"])
    assert answer.status_code == 200
    assert [each.count for each in pair] == [1, 1], "the second attempt must go to the other replica"
    received = sorted(
        (request for each in pair for request in each.received),
        key=lambda request: request.value("x-envoy-attempt-count") or "",
    )
    assert [request.value("x-envoy-attempt-count") for request in received] == ["1", "2"]
    assert {request.value("x-request-id") for request in received} == {answer.headers["x-request-id"]}
    assert received[0].body == received[1].body
    assert line["attempts"] == 2


def test_a_second_attempt_never_goes_to_the_idle_replica_that_failed(
    tmp_path: Path, pair: tuple[RecordingUpstream, RecordingUpstream]
) -> None:
    """Least-request would choose the failed replica: it is idle, and the other one has ten requests in flight."""
    failing, busy = pair
    turns = itertools.count()
    # The edge ends first: it cuts the requests that are held.
    with ThreadPoolExecutor(100) as pool, running_edge(tmp_path, failing.port, replicas(*pair)) as edge:
        busy.manner = Manner(delay_seconds=300)

        def ten_are_held() -> bool:
            pool.submit(edge.post)
            return busy.count >= 10

        eventually(ten_are_held, "the busy replica holds requests")
        # Every second request succeeds, so that the replica is never ejected.
        failing.manner_of = lambda _: Manner(hang_up=next(turns) % 2 == 0)
        busy.manner = Manner()
        statuses = Counter(edge.post().status_code for _ in range(40))
        second = Counter(
            each.port
            for each in pair
            for request in each.received
            if request.value("x-envoy-attempt-count") == "2"
        )
    assert statuses == {200: 40}
    assert second[busy.port] >= 10, "the idle replica must have failed often enough to judge"
    assert not second[failing.port]


def test_a_request_that_no_router_answers_is_tried_twice_and_not_more_often(
    tmp_path: Path, pair: tuple[RecordingUpstream, RecordingUpstream]
) -> None:
    for each in pair:
        each.manner = Manner(hang_up=True)
    with running_edge(tmp_path, pair[0].port, replicas(*pair)) as edge:
        assert edge.post().status_code == 503
    assert sum(each.count for each in pair) == 2


def test_a_second_attempt_takes_no_second_reservation(
    tmp_path: Path, pair: tuple[RecordingUpstream, RecordingUpstream]
) -> None:
    hang_up_on_first(*pair)
    settings = {**replicas(*pair), "limits": {"default": {"tokens_per_minute": 100_000}}}
    body = {**GOOD_BODY, "max_tokens": 500}
    with running_redis(tmp_path) as redis, contextlib.ExitStack() as stack:
        base = {"listen": {"port": free_port()}, **settings}
        port, metrics = stack.enter_context(running_rate_limit_service(tmp_path, base, redis))
        budgets = {"budgets": {"port": port, "metrics_port": metrics}}
        edge = stack.enter_context(running_edge(tmp_path / "edge", pair[0].port, {**settings, **budgets}))
        answer = edge.post(body)
        line = edge.access_line(answer.headers["x-request-id"])
        text = httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
    assert (answer.status_code, line["attempts"]) == (200, 2)
    reserved = [row for row in text.splitlines() if row.startswith("rate_limit_reserved_tokens_total ")]
    assert float(reserved[0].split()[1]) == float(line["tokens_reserved"])


def test_an_answer_that_has_begun_is_never_asked_for_again(tmp_path: Path) -> None:
    begun = 0

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /readyz"):
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        begun += 1
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b'10\r\ndata: {"half":1}\r\n')
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.transport.abort()

    async def ask() -> None:
        ports = [free_port(), free_port()]
        addresses = [{"host": "127.0.0.1", "port": port} for port in ports]
        async with contextlib.AsyncExitStack() as stack:
            for port in ports:
                await stack.enter_async_context(await asyncio.start_server(half, "127.0.0.1", port))

            def through_an_edge() -> None:
                with (
                    running_edge(tmp_path, ports[0], {"router": {"replicas": addresses}}) as edge,
                    pytest.raises(httpx.RemoteProtocolError),
                ):
                    edge.post(STREAM)

            await asyncio.to_thread(through_an_edge)

    asyncio.run(ask())
    assert begun == 1


def test_a_draining_router_gets_no_new_request_and_finishes_its_answer(
    tmp_path: Path, pair: tuple[RecordingUpstream, RecordingUpstream]
) -> None:
    for each in pair:
        each.manner = Manner(chunks=60, chunk_seconds=0.1)
    with running_edge(tmp_path, pair[0].port, replicas(*pair)) as edge:
        texts: list[str] = []
        streaming = threading.Thread(target=lambda: texts.append(edge.post(STREAM).text))
        streaming.start()
        draining = eventually(
            lambda: next((each for each in pair if each.count), None), "a replica has the stream"
        )
        draining.ready = False
        eventually(lambda: not edge.is_healthy(draining.port), "the edge knows of the drain")
        for _ in range(40):
            assert edge.post().status_code == 200
        assert draining.count == 1, "a draining router must get no new request"
        streaming.join()
    assert texts[0].endswith("data: [DONE]\n\n")


def test_a_drain_just_after_another_change_is_known_at_once(
    tmp_path: Path, pair: tuple[RecordingUpstream, RecordingUpstream]
) -> None:
    """Envoy gathers the changes of a second unless it is told not to."""
    draining, other = pair
    settings = {"router": {**replicas(*pair)["router"], "health_interval_seconds": 0.1}}
    with running_edge(tmp_path, other.port, settings) as edge:
        for _ in range(5):
            draining.ready = False
            eventually(lambda: not edge.is_healthy(draining.port), "the edge knows of the drain", 30, 0.02)
            before = draining.count
            assert {edge.post().status_code for _ in range(5)} == {200}
            assert draining.count == before, "a draining router must get no new request"
            draining.ready = True
            eventually(lambda: edge.is_healthy(draining.port), "the edge knows that it is ready", 30, 0.02)
    assert other.count == 25


def test_an_awaited_answer_of_a_host_that_vanished_comes_from_another(tmp_path: Path) -> None:
    with far_host() as host, recording_upstream() as near:  # noqa: SIM117 (the far server needs the host)
        with recording_upstream(host=host.address, namespace=host.namespace) as far:
            far.manner = Manner(delay_seconds=300)
            near.manner = Manner(delay_seconds=3)
            with (
                running_edge(tmp_path, near.port, replicas(near, far)) as edge,
                ThreadPoolExecutor(12) as pool,
            ):
                waiting = [pool.submit(timed_post, edge) for _ in range(12)]
                eventually(lambda: far.count + near.count == 12, "every request is at a replica")
                assert far.count, "the far host must have a request when it vanishes"
                host.cut()
                eventually(lambda: not host.carries(), "the link is down")
                answers = [each.result() for each in waiting]
    assert {status for status, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < LONGEST_HANG_SECONDS


def test_a_request_that_is_sent_to_a_vanished_host_is_given_up_in_time(tmp_path: Path) -> None:
    with far_host() as host, recording_upstream(host=host.address, namespace=host.namespace) as far:
        settings = {
            "router": {"replicas": [{"host": far.host, "port": far.port}], "keepalive_idle_seconds": 60}
        }
        with running_edge(tmp_path, far.port, settings) as edge:
            assert edge.post().status_code == 200
            host.cut()
            eventually(lambda: not host.carries(), "the link is down")
            status, seconds = timed_post(edge)
    assert status == 503
    assert seconds < LONGEST_HANG_SECONDS


def timed_post(edge: Edge) -> tuple[int, float]:
    begun = time.monotonic()
    with httpx.Client(timeout=120) as client:
        status = client.post(edge.url + CHAT, json=GOOD_BODY, headers=edge.headers()).status_code
    return status, time.monotonic() - begun


def test_after_a_scale_out_every_router_has_its_share(tmp_path: Path) -> None:
    """From 2 to 4 addresses of one name: no replica has over 1.5 times another's requests."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        hosts = [f"127.0.0.{number}" for number in (11, 12, 13, 14)]
        upstreams = [stack.enter_context(recording_upstream(host=host, port=port)) for host in hosts]
        server = stack.enter_context(name_server(hosts[:2]))
        settings = {"router": {"host": "router.test", "port": port}}
        edge = stack.enter_context(running_edge(tmp_path, port, settings, name_server_port=server.port))
        with httpx.Client(timeout=30, headers=edge.headers()) as client:

            def ask(_: int = 0) -> None:
                assert client.post(edge.url + CHAT, json=GOOD_BODY).status_code == 200

            for _ in range(20):
                ask()
            assert [upstream.count > 0 for upstream in upstreams] == [True, True, False, False]
            server.addresses = hosts

            def every_one_is_asked() -> bool:
                ask()
                return all(upstream.count for upstream in upstreams)

            eventually(every_one_is_asked, "the new replicas get requests", seconds=30)
            before = Counter({upstream.host: upstream.count for upstream in upstreams})
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(ask, range(1600)))
        shares = [upstream.count - before[upstream.host] for upstream in upstreams]
    assert sum(shares) == 1600
    assert max(shares) <= 1.5 * min(shares), shares


def test_unstreamed_requests_of_a_killed_router_are_answered(tmp_path: Path) -> None:
    """Two real routers, one killed with SIGKILL: its requests are answered by the other under the same ids."""
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("a", "--step-seconds", "0.02")
        routers = [fleet.add_router(), fleet.add_router()]
        addresses = [{"host": "127.0.0.1", "port": router.port} for router in routers]
        body = {"model": "smollm2-135m-instruct", "messages": GOOD_BODY["messages"], "max_tokens": 100}
        body["ignore_eos"] = True
        with (
            running_edge(tmp_path / "edge", routers[0].port, {"router": {"replicas": addresses}}) as edge,
            ThreadPoolExecutor(20) as pool,
        ):
            waiting = [pool.submit(edge.post, body) for _ in range(20)]
            eventually(
                lambda: all(router.metric("router_in_flight") >= 1 for router in routers), "both are at work"
            )
            routers[0].kill()
            answers = [each.result() for each in waiting]
            again = [
                line
                for answer in answers
                if (line := edge.access_line(answer.headers["x-request-id"]))["attempts"] == 2
            ]
            assert {answer.status_code for answer in answers} == {200}
            assert again, "the killed router must have had requests"
            for line in again:
                assert routers[1].record(line["request_id"])["outcome"] == "ok"
