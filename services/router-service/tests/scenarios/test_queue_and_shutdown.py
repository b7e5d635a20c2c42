"""Waiting for a free slot, leaving the queue, client retries during an outage, and a graceful shutdown."""

import concurrent.futures
import os
import signal
import threading
import time

import httpx
import pytest
from openai import InternalServerError, OpenAI

from harness.processes import tail

pytestmark = pytest.mark.service


@pytest.fixture(scope="module")
def sections():
    return {
        "limits": {"max_in_flight_per_backend": 1, "queue_size": 2, "queue_seconds": 4},
        "server": {"settle_seconds": 3},
    }


def occupy(rig, eventually) -> list:
    held = [rig.send(rig.body(max_tokens=1500), headers=f"x-client-id: {n}\r\n") for n in range(2)]
    eventually(lambda: rig.in_flight() == 2, "both engines are at their limit")
    return held


def test_a_request_that_waits_too_long_is_overloaded_with_retry_after(rig, eventually) -> None:
    held = occupy(rig, eventually)
    began = time.monotonic()
    answer = rig.post(rig.body(max_tokens=1))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "overloaded"
    assert int(answer.headers["retry-after"]) >= 1
    assert 3.9 <= time.monotonic() - began < 25, "the held places would be free after 30 s"
    assert rig.record(answer.headers["x-request-id"])["outcome"] == "refused"
    for connection in held:
        connection.close()


def test_a_full_line_refuses_at_once_and_a_freed_place_goes_to_the_first_in_it(rig, eventually) -> None:
    held = occupy(rig, eventually)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(rig.post, rig.body(max_tokens=1)) for _ in range(2)]
        eventually(lambda: rig.metric("router_queue_length") == 2, "two wait")
        assert rig.post(rig.body(max_tokens=1)).status_code == 503
        for connection in held:
            connection.close()
        answers = [future.result(20) for future in waiting]
    assert [answer.status_code for answer in answers] == [200, 200]
    record = rig.record(answers[0].headers["x-request-id"])
    assert record["queue_position"] is not None
    assert record["ttft_ledger_ms"]["router_queue"] > 0


def test_a_client_that_fills_the_queue_keeps_no_other_client_out(rig, eventually) -> None:
    held = occupy(rig, eventually)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        greedy = {"headers": {"x-client-id": "greedy"}}
        waiting = [threads.submit(rig.post, rig.body(max_tokens=1), **greedy) for _ in range(2)]
        eventually(lambda: rig.metric("router_queue_length") == 2, "one client fills the queue")
        assert rig.post(rig.body(max_tokens=1), **greedy).status_code == 503, "its own newest gives way"
        modest = threads.submit(rig.post, rig.body(max_tokens=1), headers={"x-client-id": "modest"})
        gave_way = next(concurrent.futures.as_completed(waiting, 10)).result()
        assert gave_way.status_code == 503
        assert gave_way.json()["error"]["code"] == "overloaded"
        assert rig.record(gave_way.headers["x-request-id"])["client_id"] == "greedy"
        for connection in held:
            connection.close()
        assert modest.result(20).status_code == 200
        assert sorted(future.result(20).status_code for future in waiting) == [200, 503]
    eventually(lambda: rig.in_flight() == 0, "every slot is free")


def test_a_client_cannot_take_every_slot_while_another_one_is_active(rig, eventually) -> None:
    assert rig.post(rig.body(max_tokens=1), headers={"x-client-id": "modest"}).status_code == 200
    greedy = "x-client-id: greedy\r\n"
    held = [rig.send(rig.body(max_tokens=1500), headers=greedy) for _ in range(2)]
    eventually(lambda: rig.metric("router_queue_length") == 1, "its second request waits")
    assert rig.in_flight() == 1, "a slot stays free"
    assert rig.post(rig.body(max_tokens=1), headers={"x-client-id": "modest"}).status_code == 200
    held[0].close()
    eventually(lambda: rig.metric("router_queue_length") == 0, "the second one takes the first one's share")
    assert rig.in_flight() == 1
    held[1].close()
    eventually(lambda: rig.in_flight() == 0, "every slot is free")


def test_leaving_the_line_frees_the_place_in_it_at_once(rig, eventually) -> None:
    held = occupy(rig, eventually)
    waiting = rig.send(rig.body(max_tokens=5), headers="x-request-id: left-the-line\r\n")
    eventually(lambda: rig.metric("router_queue_length") == 1, "one waits")
    left = time.monotonic()
    waiting.close()
    eventually(lambda: rig.metric("router_queue_length") == 0, "nobody waits", 3.5, 0.01)
    seconds = time.monotonic() - left
    print(f"its place was free {seconds:.3f} s after the client left")
    assert seconds <= 1.0, f"its place was free {seconds:.3f} s after the client left"
    record = rig.record("left-the-line")
    assert record["total_ms"] < 3900, "it did not wait out its time"
    assert record["outcome"] == "cancelled"
    assert record["attempts"] == []
    for connection in held:
        connection.close()


def test_client_retries_do_not_multiply_attempts_in_an_outage(rig) -> None:
    for engine in rig.engines.values():
        engine.fault("http_error", status=503)
    before = rig.metric("router_attempts_total")
    client = OpenAI(base_url=f"{rig.url}/v1", api_key="none", max_retries=2)
    with pytest.raises(InternalServerError) as problem:
        client.chat.completions.create(
            model=rig.body()["model"], messages=[{"role": "user", "content": "hi"}]
        )
    assert "retry-after" in problem.value.response.headers
    offered = 3  # the SDK's first call and its two retries
    assert rig.metric("router_attempts_total") - before <= offered * 2, "two backends: at most one retry each"
    for engine in rig.engines.values():
        engine.heal()
    answer = client.chat.completions.create(
        model=rig.body()["model"], messages=[{"role": "user", "content": "hi"}], max_tokens=2
    )
    assert answer.usage is not None


def stopped(rig) -> bool:
    return rig.process.poll() is not None


def test_sigterm_finishes_the_running_stream_says_not_ready_and_exits_0(rig, eventually) -> None:
    """Last in this module: it ends the router."""
    text: list[str] = []
    started = threading.Event()

    def stream() -> None:
        with httpx.stream(
            "POST", f"{rig.url}/v1/chat/completions", json=rig.body(max_tokens=100), timeout=60
        ) as answer:
            for piece in answer.iter_text():
                text.append(piece)
                started.set()

    reader = threading.Thread(target=stream)
    reader.start()
    assert started.wait(10)
    kept = httpx.Client(timeout=30)
    assert "connection" not in kept.get(f"{rig.url}/healthz").headers
    os.kill(rig.router_pid, signal.SIGTERM)
    eventually(lambda: httpx.get(f"{rig.url}/readyz").status_code == 503, "not ready, and still accepting", 3)
    assert not stopped(rig)
    # Every answer is its connection's last, also on a kept one, so that none is closed under a request.
    answer = kept.post(f"{rig.url}/v1/chat/completions", json=rig.body(max_tokens=1, stream=False))
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert kept.get(f"{rig.url}/healthz").headers["connection"] == "close"
    kept.close()
    reader.join(60)
    assert "".join(text).rstrip().endswith("data: [DONE]")
    assert rig.process.wait(60) == 0
    assert '"event":"stopped"' in tail(rig.log)
    # The rig's fixture expects a router; there is none to look at any more.
    rig.in_flight = lambda: 0
    rig.metric = lambda *name, **labels: 2
