"""A pool without an engine: requests wait, a stand-in scaler starts an engine on their metric, and all are answered."""

import concurrent.futures
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from harness.ports import free_port
from harness.processes import answers, running
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed]

BIN = Path(sys.executable).parent
MODEL = "smollm2-135m-instruct"
HOLD = {"hold_seconds": 30, "slots": 4}


@contextlib.contextmanager
def engine(folder: Path, port: int) -> Iterator[None]:
    command = [
        BIN / "engine-simulator",
        "serve",
        "--port",
        str(port),
        "--model",
        MODEL,
        "--max-num-seqs",
        "2",
    ]
    with running(command, log=folder / "engine.log", ready=answers(f"http://127.0.0.1:{port}/health")):
        yield


class Scaler:
    """Starts the engine when the router's metric is over 0, as KEDA does from 0 replicas."""

    def __init__(self, rig, folder: Path, port: int) -> None:
        self._rig, self._folder, self._port = rig, folder, port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.saw = 0.0

    def __enter__(self) -> "Scaler":
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self.saw = self._rig.metric("router_held_requests", pool="general")
            if self.saw > 0:
                with engine(self._folder, self._port):
                    self._ended.wait()
                return


def held(rig) -> float:
    return rig.metric("router_held_requests", pool="general")


def ends(rig, end: str) -> float:
    return rig.metric("router_holds_total", pool="general", end=end)


def test_held_requests_are_answered_when_a_scaler_starts_an_engine_on_the_metric(
    lone_router, tmp_path
) -> None:
    port = free_port()
    with (
        lone_router({"engine-a": port}, when_none_ready=HOLD) as rig,
        concurrent.futures.ThreadPoolExecutor(4) as threads,
    ):
        asked = [
            threads.submit(rig.post, rig.body(max_tokens=3, stream=number < 2), headers={"x-client-id": f"c{number}"})
            for number in range(4)
        ]  # fmt: skip
        eventually(lambda: held(rig) == 4, "all are held")
        assert rig.metric("router_queue_length") == 0, "no engine is busy"
        refused = rig.post(rig.body(max_tokens=1), headers={"x-client-id": "c9"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "start_queue_full"
        assert refused.headers["retry-after"] == "2", "no start was measured yet"
        with Scaler(rig, tmp_path, port) as scaler:
            statuses = [one.result(60).status_code for one in asked]
            assert scaler.saw == 4
            assert statuses == [200] * 4
            eventually(lambda: ends(rig, "started") == 4, "the waits are counted")
            records = [rig.record(one.result().headers["x-request-id"]) for one in asked]
            took = rig.metric("router_start_seconds", pool="general")
        assert all(record["held_ms"] > 0 for record in records)
        streamed = records[0]["ttft_ledger_ms"]
        assert streamed["waiting_for_start"] == pytest.approx(records[0]["held_ms"], abs=0.01)
        assert streamed["router_queue"] < streamed["waiting_for_start"], "the wait is not in the queue's part"
        assert abs(streamed["unexplained"]) < 0.1 * records[0]["first_token_ms"]
        assert took * 1e3 >= max(record["held_ms"] for record in records) - 0.01
        assert held(rig) == 0
        mine = httpx.get(f"{rig.url}/v1/requests/{records[0]['request_id']}", headers={"x-client-id": "c0"})
        assert any("for one to start" in sentence for sentence in mine.json()["summary"])
        # The engine is gone again: a refusal repeats how long the start took.
        eventually(lambda: rig.metric("router_usable_backends") == 0, "the engine is gone")
        blocked = [rig.send(rig.body()) for _ in range(4)]
        eventually(lambda: held(rig) == 4, "all slots are taken")
        refused = rig.post(rig.body(max_tokens=1))
        assert took <= int(refused.headers["retry-after"]) < took + 1
        for connection in blocked:
            connection.close()
        eventually(lambda: held(rig) == 0, "clients that leave free their slots")
        assert ends(rig, "client_left") == 4


def test_no_request_is_held_past_its_limit_and_a_running_one_says_what_it_waits_for(
    lone_router, tmp_path
) -> None:
    with lone_router({"engine-a": free_port()}, when_none_ready={"hold_seconds": 3, "slots": 4}) as rig:
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            began = time.monotonic()
            headers = {"x-request-id": "held-1", "x-client-id": "a"}
            asked = threads.submit(rig.post, rig.body(), headers=headers)
            eventually(lambda: held(rig) == 1, "it is held")
            running_record = httpx.get(f"{rig.url}/debug/decisions/held-1").json()
            assert running_record["running"]["waits_for"] == "start"
            answer = asked.result(30)
        assert time.monotonic() - began >= 2.9
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_backend_ready"
        record = rig.record("held-1")
        assert (record["outcome"], record["attempts"]) == ("refused", [])
        assert record["held_ms"] == pytest.approx(3000, rel=0.3)
        assert ends(rig, "expired") == 1


def test_comments_keep_a_waiting_stream_alive_and_the_answer_follows_them(lone_router, tmp_path) -> None:
    port = free_port()
    router = lone_router({"engine-a": port}, when_none_ready={**HOLD, "comment_seconds": 0.1})
    with router as rig, concurrent.futures.ThreadPoolExecutor(2) as threads:
        client = OpenAI(base_url=f"{rig.url}/v1", api_key="none", max_retries=0, timeout=60)

        def stream() -> str:
            chunks = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=3, stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

        whole = threads.submit(rig.post, rig.body(max_tokens=1, stream=False))
        raw = rig.send(rig.body(max_tokens=3))
        first = raw.recv(4096)
        assert b" 200 " in first.split(b"\r\n")[0]
        assert b"text/event-stream" in first
        text = threads.submit(stream)
        eventually(lambda: held(rig) == 3, "all are held")
        with engine(tmp_path, port):
            assert text.result(60)
            assert whole.result(60).status_code == 200
            received = first
            while piece := raw.recv(4096):
                received += piece
                if b"[DONE]" in received:
                    break
        assert b": waiting for an engine to start\n\n" in received
        assert received.count(b"HTTP/1.1") == 1
        raw.close()


@pytest.mark.parametrize("comments", [0.0, 0.1])
def test_shutdown_answers_what_an_engine_can_and_ends_the_others_properly(
    lone_router, tmp_path, comments
) -> None:
    hold = {"hold_seconds": 50, "slots": 4, "comment_seconds": comments}
    router = lone_router({"engine-a": free_port()}, when_none_ready=hold)
    with router as rig, concurrent.futures.ThreadPoolExecutor(2) as threads:
        whole = threads.submit(rig.post, rig.body(stream=False))
        streamed = threads.submit(rig.post, rig.body())
        eventually(lambda: held(rig) == 2, "both are held")
        time.sleep(0.3 if comments else 0)
        os.kill(rig.router_pid, signal.SIGTERM)
        eventually(lambda: "draining" in rig.log.read_text(), "the drain began")
        assert not whole.done()
        os.kill(rig.router_pid, signal.SIGTERM)
        answer = whole.result(30)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "shutting down" in answer.json()["error"]["message"]
        if comments:
            with pytest.raises(httpx.RemoteProtocolError):
                streamed.result(30)
        else:
            assert streamed.result(30).status_code == 503
        assert rig.process.wait(30) == 0
        lines = [json.loads(line) for line in rig.log.read_text().splitlines()]
        assert [line["outcome"] for line in lines if line["event"] == "request"] == ["refused"] * 2
        assert lines[-1]["event"] == "stopped"


def test_requests_held_at_sigterm_are_answered_if_an_engine_starts(lone_router, tmp_path) -> None:
    port = free_port()
    with (
        lone_router({"engine-a": port}, when_none_ready=HOLD) as rig,
        concurrent.futures.ThreadPoolExecutor(1) as threads,
    ):
        asked = threads.submit(rig.post, rig.body(max_tokens=2))
        eventually(lambda: held(rig) == 1, "it is held")
        os.kill(rig.router_pid, signal.SIGTERM)
        with engine(tmp_path, port):
            assert asked.result(60).status_code == 200
            assert rig.process.wait(60) == 0
