"""Plays one request through the router's pipeline on scripted backends. Opens no socket.

The client and the backends are objects; the fleet, decisions, attempts, timeouts and the record are the router's own.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from time import perf_counter

import orjson

from harness.fake_upstream import FakeUpstream, Script
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.line import Bounds
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.relay import ClientListener, Headers
from router_service.pipeline.settings import Settings
from router_service.ports import Endpoint, Health
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Rule, Timeouts
from router_service.routing.session_sources import SessionSources
from router_service.routing.vocabulary import State

FAR = 300.0
NEAR = 0.2
STREAM = ((b"content-type", b"text/event-stream"),)
JSON = ((b"content-type", b"application/json"),)
TOKEN = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
DONE = b"data: [DONE]\n\n"

ANSWERS = {
    "/v1/chat/completions": (ROLE, (TOKEN, DONE)),
    "/v1/completions": (
        b'data: {"choices":[{"text":""}]}\n\n',
        (b'data: {"choices":[{"text":"a"}]}\n\n', DONE),
    ),
    "/v1/responses": (
        b'event: response.created\ndata: {"type":"response.created"}\n\n',
        (
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n',
            b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
        ),
    ),
    "/v1/messages": (
        b'event: message_start\ndata: {"type":"message_start"}\n\n',
        (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n',
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ),
    ),
}
"""By path: an event before the first token, and the rest of the answer."""


class Client:
    """Stores the bytes that it receives."""

    gone = False

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[str] = []
        self.status: list[int] = []

    def listen(self, listener: ClientListener | None) -> None: ...
    def start(self, status: int, headers: Headers) -> None:
        self.status.append(status)

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers = ()) -> None:
        self.ends.append("finish")

    def abort(self) -> None:
        self.ends.append("abort")

    async def settled(self) -> None: ...


@dataclass
class Played:
    """A request that has ended."""

    client: Client
    job: Job
    seconds: float

    @property
    def outcomes(self) -> list[str]:
        return [attempt.outcome for attempt in self.job.attempts]


async def play(
    *scripts: Script,
    timeouts: Timeouts = Timeouts(FAR, FAR, FAR, FAR),  # noqa: B008
    path: str = "/v1/chat/completions",
    stream: bool = True,
    content: str = "x",
    rules: tuple[Rule, ...] = (),
    meanwhile: Callable[[Fleet, Pipeline, Client], Awaitable[None]] | None = None,
) -> Played:
    """Play one request on a backend per script, in their order. The budget has no retry."""
    names = [f"b{number}" for number in range(len(scripts))]
    fleet = Fleet(["p"], Bounds(8, 0, 0.05, retry_ratio=0, retry_minimum=0), perf_counter)
    fleet.set_endpoints("p", [Endpoint(n, f"http://{n}:1", f"http://{n}:1/health") for n in names])
    for name in names:
        fleet.set_health("p", name, Health(True, State.IDLE))
    upstream = FakeUpstream({f"http://{n}:1": deque([s]) for n, s in zip(names, scripts, strict=True)})
    policy = Policy({"p": Pool("p", "least_loaded", ("m",))}, rules, "p", timeouts=timeouts)
    jobs: list[Job] = []
    pipeline = Pipeline(
        Settings(policy, 3, frozenset({503}), 0.05, SessionSources((b"x-session-id",)), 1000),
        fleet,
        upstream,
        None,
        jobs.append,
        lambda seconds: None,
        Random(1),
    )
    inbound = Inbound.now(INFERENCE_PATHS[path], path.encode(), [])
    inbound.body = orjson.dumps(
        {
            "model": "m",
            "stream": stream,
            "messages": [{"role": "user", "content": content}],
            "prompt": "x",
            "input": "x",
        }
    )
    client = Client()
    began = perf_counter()
    handled = asyncio.create_task(pipeline.handle(inbound, client))
    if meanwhile is not None:
        await meanwhile(fleet, pipeline, client)
    await asyncio.wait_for(handled, 20)
    return Played(client, jobs[0], perf_counter() - began)
