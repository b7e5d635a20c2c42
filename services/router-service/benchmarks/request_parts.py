#!/usr/bin/env python3
"""Measures the router's work for one request, step by step: CPU microseconds without sockets, minimum of several
rounds.

A step that is measured alone has its code and data in the processor's caches; in a request it costs about twice as
much. The router has the configuration of `make bench` (ten rules, two backends, all features enabled). Its client and
its backend are objects that respond at once. The figures exclude the kernel, uvloop, uvicorn and the HTTP parser:
`make bench` measures the whole.
"""

import gc
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import uvloop

from load_testing.bench.systems import router_config, rules
from router_service.accounting.completion import log_text
from router_service.app import Router
from router_service.config import load
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.openai_api.usage import read_report
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.relay import ClientListener, Headers
from router_service.ports import Endpoint, Health, ResponseSink
from router_service.routing.decide import decide
from router_service.routing.features import extract_features
from router_service.routing.snapshot import Snapshot
from router_service.routing.vocabulary import State

ROUNDS, CALLS = 9, 400
HEADERS = [
    (b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json"), (b"accept", b"*/*"),
    (b"user-agent", b"bench"), (b"content-length", b"1024"),
]  # fmt: skip
PROMPT = ("aaaaaaa " * 128)[:930]
BODY = b'{"model":"bench","max_tokens":16,"temperature":0.7,%b"messages":[{"role":"user","content":"%b"}]}'
USAGE = (
    b'"usage":{"prompt_tokens":30,"total_tokens":38,"completion_tokens":8},"metrics":{"time_to_first_token_ms":1.5,'
    b'"generation_time_ms":2.5,"queue_time_ms":0.05}}'
)
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"The capital of France is Paris."},"finish_reason":"stop"}],' + USAGE
)
CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[{"index":0,'
    b'"delta":{"content":"token"},"finish_reason":null}]}\n\n'
)
LAST = b'data: {"id":"chatcmpl-1","choices":[],' + USAGE + b"\n\ndata: [DONE]\n\n"
CHUNKS = 16


class Client:
    """A client that accepts all data at once."""

    gone = False

    def listen(self, listener: ClientListener | None) -> None: ...
    def start(self, status: int, headers: Headers) -> None: ...
    def write(self, data: bytes) -> None: ...
    def finish(self, trailers: Headers = ()) -> None: ...
    def abort(self) -> None: ...
    async def settled(self) -> None: ...


class Backend:
    """A kept-alive connection whose response is available at once."""

    used = True

    def __init__(self, stream: bool) -> None:
        self._stream = stream

    def send(self, request: bytes, sink: ResponseSink) -> None:
        if self._stream:
            sink.on_head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
            for _ in range(CHUNKS):
                sink.on_body(CHUNK)
            sink.on_body(LAST)
        else:
            sink.on_head(200, [(b"content-type", b"application/json"), (b"content-length", b"300")])
            sink.on_body(ANSWER)
        sink.on_end()

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


def make_router(folder: Path, log_fd: int) -> Router:
    """Return the router of `make bench`; its backends are healthy and never connected to."""
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    (folder / "router.yaml").write_text(router_config(8000, urls))
    (folder / "rules.yaml").write_text(rules())
    router = Router(folder / "router.yaml", load(folder / "router.yaml"), log_fd)
    router.fleet.set_endpoints("general", [Endpoint(f"backend-{n}", url, url) for n, url in enumerate(urls)])
    for n in range(len(urls)):
        router.fleet.set_health("general", f"backend-{n}", Health(True, State.IDLE))
    return router


def least(work: Callable[[], object]) -> float:
    """Return the CPU microseconds of one call."""
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(CALLS):
            work()
        found.append((time.thread_time() - began) / CALLS)
    return min(found) * 1e6


async def whole(router: Router, body: bytes, backend: Backend) -> float:
    """Return the CPU microseconds of a request from its body to its record."""
    pipeline, client, path = router.pipeline, Client(), INFERENCE_PATHS["/v1/chat/completions"]
    router.upstream.idle = lambda url: backend  # type: ignore[method-assign, assignment, return-value]
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(CALLS):
            inbound = Inbound.now(path, b"/v1/chat/completions", HEADERS)
            inbound.body = body
            await pipeline.handle(inbound, client)
        found.append((time.thread_time() - began) / CALLS)
    return min(found) * 1e6


def parts(router: Router, job: Job, answer: bytes) -> dict[str, Callable[[], object]]:
    """Return the steps that can be measured alone, for a finished job."""
    completion, record, features = router.completion, router.completion.record(job), job.features
    assert features is not None
    policy, snapshot, read, where = (
        job.settings.policy,
        Snapshot(router.fleet.pools),
        job.inbound.fields(),
        job.inbound.path,
    )
    return {
        "ids, trace context": lambda: router.pipeline.begin(job.inbound),
        "body to JSON": job.inbound.fields,
        "features": lambda: extract_features(read, where.path, {}, needs=policy.needs),
        "decision": lambda: decide(features, snapshot, policy, 0.0),
        "usage from the answer": lambda: read_report(answer),
        "record": lambda: completion.record(job),
        "metrics": lambda: completion._measure(job, record),
        "log line": lambda: log_text(record),
    }


async def measure(router: Router) -> None:
    """Print both tables."""
    finished = router.pipeline._finished
    for stream in (False, True):
        body = BODY % (
            b'"stream":true,"stream_options":{"include_usage":true},' if stream else b"",
            PROMPT.encode(),
        )
        jobs: deque[Job] = deque(maxlen=1)
        router.pipeline._finished = jobs.append
        without = await whole(router, body, Backend(stream))
        router.pipeline._finished = finished
        print(f"streamed, {CHUNKS} chunks" if stream else "unstreamed")
        for name, work in parts(router, jobs[0], CHUNK + LAST if stream else ANSWER).items():
            print(f"  {name:<40}{least(work):>8.1f}  alone")
        print(f"  {'until the end of the answer':<40}{without:>8.1f}")
        total = await whole(router, body, Backend(stream))
        print(f"  {'with record, metrics and log line':<40}{total:>8.1f}")


def main() -> int:
    """Run with the garbage collector disabled, because its cost depends on all live objects."""
    gc.disable()
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("wb") as log:
        router = make_router(Path(folder), log.fileno())
        uvloop.run(measure(router))
    return 0


if __name__ == "__main__":
    sys.exit(main())
