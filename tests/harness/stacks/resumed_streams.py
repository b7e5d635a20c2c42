"""A stream that breaks, and its resumed attempts, played through the router's pipeline with a fake upstream."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from time import perf_counter
from typing import Any

import orjson

from harness.fake_upstream import Ending, FakeUpstream, Script
from platform_contracts.event_streams import chunks
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.line import Bounds
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.settings import Settings
from router_service.ports import Endpoint, Health
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, Target
from router_service.routing.session_sources import SessionSources
from router_service.routing.vocabulary import State

STREAM = ((b"content-type", b"text/event-stream"),)
DONE = b"data: [DONE]\n\n"
RULE = Rule("resumed", Group("all", ()), (Target("p"),), resume=True)
NOT_RESUMED = Rule("plain", Group("all", ()), (Target("p"),))


def events(
    chat: bool, texts: list[str], finish: str | None = None, start: int = 0, name: str = "1"
) -> list[bytes]:
    """Return one chunk per text with token counts as in vLLM; the last one with ``finish``."""
    found: list[dict[str, Any]] = []
    if chat:
        found.append({"delta": {"role": "assistant", "content": ""}})
    for number, text in enumerate(texts):
        last = finish if number == len(texts) - 1 else None
        found.append(
            {"delta": {"content": text}, "finish_reason": last}
            if chat
            else {"text": text, "finish_reason": last}
        )
    made = start - (1 if chat else 0)
    lines = []
    for choice in found:
        made += 1
        usage = {"prompt_tokens": 7, "completion_tokens": made, "total_tokens": 7 + made}
        chunk = {"id": name, "created": 1, "model": "m", "choices": [{"index": 0, **choice}], "usage": usage}
        lines.append(b"data: " + orjson.dumps(chunk) + b"\n\n")
    return lines


class Client:
    """Records what the router sends to it."""

    gone = False

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[str] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self.starts = 0

    def listen(self, listener: object) -> None:
        pass

    def start(self, status: int, headers: object) -> None:
        self.starts += 1

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.ends.append("finish")
        self.trailers = list(trailers)

    def abort(self) -> None:
        self.ends.append("abort")

    async def settled(self) -> None:
        pass

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return chunks(self.data)

    @property
    def text(self) -> str:
        choices = [choice for chunk in self.chunks for choice in chunk.get("choices", ())]
        return "".join((c.get("delta", c).get("content") or c.get("text") or "") for c in choices)


@dataclass(frozen=True)
class Backends:
    """One backend per list of ``scripts``, used in that order unless ``loads`` differ; ``busy`` lists the
    indices of busy ones.

    ``retries`` is the size of the retry budget.
    """

    scripts: list[list[Script]]
    loads: Sequence[int] = ()
    busy: Sequence[int] = ()
    retries: int = 3

    def fleet(self) -> Fleet:
        """Return the fleet of pool ``p``, all of it healthy."""
        fleet = Fleet(["p"], Bounds(64, 0, 0.05, retry_ratio=0, retry_minimum=self.retries), perf_counter)
        names = [f"b{number}" for number in range(len(self.scripts))]
        fleet.set_endpoints(
            "p", [Endpoint(name, f"http://{name}:1", f"http://{name}:1/health") for name in names]
        )
        for name in names:
            fleet.set_health("p", name, Health(True, State.IDLE))
        for number, view in enumerate(fleet.pools["p"].backends):
            view.in_flight = 64 if number in self.busy else self.loads[number] if self.loads else 0
        return fleet

    def upstream(self) -> FakeUpstream:
        """Return the upstream that plays the scripts."""
        return FakeUpstream({f"http://b{number}:1": deque(own) for number, own in enumerate(self.scripts)})


def answered(
    body: dict[str, Any],
    first: list[bytes],
    *more: list[bytes] | Script,
    busy: bool = False,
    ending: Ending = "break",
    rule: Rule = RULE,
) -> tuple[Client, Job, list[dict[str, Any]]]:
    """Play ``first`` as a stream that breaks and ``more`` as the resumed attempts; also return the engines' requests."""
    scripts = [
        [Script(200, STREAM, tuple(first), ending)],
        [one if isinstance(one, Script) else Script(200, STREAM, tuple(one)) for one in more],
    ]
    return played(body, Backends(scripts, busy=(1,) if busy else ()), rule=rule)


def played(
    body: dict[str, Any],
    backends: Backends,
    *,
    max_attempts: int = 3,
    rule: Rule = RULE,
    first_token_seconds: float = 60.0,
    meanwhile: Callable[[Fleet], None] = lambda fleet: None,
) -> tuple[Client, Job, list[dict[str, Any]]]:
    """Play one request; return its client, its job and the bodies that the engines received."""
    asked = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, **body}
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"

    async def play() -> tuple[Client, Job, list[dict[str, Any]]]:
        fleet, upstream = backends.fleet(), backends.upstream()
        jobs: list[Job] = []
        policy = Policy({"p": Pool("p", "least_loaded", ("m",))}, (rule,), "p")
        policy = replace(policy, timeouts=replace(policy.timeouts, first_token_seconds=first_token_seconds))
        pipeline = Pipeline(
            Settings(policy, max_attempts, frozenset({503}), 0.05, SessionSources((b"x-session-id",)), 1000),
            fleet,
            upstream,
            None,
            jobs.append,
            lambda seconds: None,
            Random(1),
        )
        inbound = Inbound.now(INFERENCE_PATHS[path], path.encode(), [(b"te", b"trailers")])
        inbound.body = orjson.dumps(asked)
        client = Client()
        asyncio.get_running_loop().call_later(0.02, meanwhile, fleet)
        await pipeline.handle(inbound, client)
        assert fleet.budget.retrying == 0
        return client, jobs[0], [orjson.loads(r.split(b"\r\n\r\n", 1)[1]) for r in upstream.requests]

    return asyncio.run(play())


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
GREEDY = {**CHAT, "temperature": 0, "max_tokens": 10}
