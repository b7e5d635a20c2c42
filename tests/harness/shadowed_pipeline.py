"""A pipeline in one process whose rule has a shadow, with scripted engines and a client that stores its output."""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

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
from router_service.resilience.breaker import BreakerSettings
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, Shadow, Target
from router_service.routing.session_sources import SessionSources
from router_service.routing.vocabulary import NotCopied, State

TOKEN, DONE = b'data: {"id":"1","choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n"
STREAM = ((b"content-type", b"text/event-stream"),)
WHOLE = Script(200, STREAM, (TOKEN, DONE))
SILENT = Script(200, STREAM, (TOKEN,), "silence")
CHAT = "/v1/chat/completions"


class Client:
    """A relay that stores its output and can disconnect."""

    def __init__(self) -> None:
        self.gone = False
        self.data = b""
        self._listener: ClientListener | None = None

    def listen(self, listener: ClientListener | None) -> None:
        self._listener = listener

    def start(self, status: int, headers: Headers) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.data += data

    def finish(self, trailers: Headers = ()) -> None:
        self.data += b"(end)"

    def abort(self) -> None:
        pass

    async def settled(self) -> None:
        pass

    def leave(self) -> None:
        self.gone = True
        if self._listener is not None:
            self._listener.client_gone()


async def until(true: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became true")


class World:
    """A pipeline with the pool `live`, its shadow pool `next`, and their scripted engines."""

    def __init__(self, percent: float = 100.0, limit: int = 4, **settings: Any) -> None:
        bounds = Bounds(limit, 4, 0.05, 1.0, BreakerSettings(2, 10.0, 0.0), 0.2, 3)
        self.fleet = Fleet(["live", "next"], bounds, perf_counter)
        for pool in ("live", "next"):
            self.fleet.set_endpoints(pool, [Endpoint(pool, f"http://{pool}:1", "")])
            self.ready(pool)
        self.upstream = FakeUpstream({f"http://{pool}:1": deque([WHOLE]) for pool in ("live", "next")})
        pools = {
            "live": Pool("live", "least_loaded", ("m", "only-live")),
            "next": Pool("next", "least_loaded", ("m",)),
        }
        rule = Rule("all", Group("all", ()), (Target("live"),), shadow=Shadow("next", percent), resume=True)
        self.finished: list[Job] = []
        self.copies: list[Job] = []
        self.left_out: list[tuple[str, NotCopied]] = []
        self.pipeline = Pipeline(
            Settings(
                Policy(pools, (rule,), "live"), 3, frozenset({502, 503}), 0.05,
                SessionSources((b"x-session-id",)), 10**6, **settings,
            ),
            self.fleet, self.upstream, None, self.finished.append, lambda seconds: None, Random(1),
        )  # fmt: skip
        self.pipeline.shadows.report_to(
            self.copies.append, lambda pool, because: self.left_out.append((pool, because))
        )

    def ready(self, pool: str, ready: bool = True) -> None:
        self.fleet.set_health(pool, pool, Health(ready, State.IDLE if ready else State.WARMING))

    def play(self, pool: str, *scripts: Script) -> None:
        self.upstream.scripts[f"http://{pool}:1"] = deque(scripts)

    def send(self, client: Client | None = None, path: str = CHAT, number: int = 0, **more: Any) -> Any:
        headers = [(b"x-request-id", b"id-%d" % number), (b"authorization", b"Bearer sk-secret")]
        inbound = Inbound.now(INFERENCE_PATHS[path], path.encode(), headers)
        asked = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}], **more}
        inbound.body = orjson.dumps(asked)
        return asyncio.create_task(self.pipeline.handle(inbound, client or Client()))

    async def ask(self, **more: Any) -> Client:
        client = Client()
        await self.send(client, **more)
        return client

    async def settle(self) -> None:
        await until(lambda: not self.pipeline.shadows.running)

    def hosts(self) -> list[str]:
        """Return the backends in the order in which they were sent requests."""
        return [request.split(b"host: ", 1)[1].split(b":")[0].decode() for request in self.upstream.requests]

    def check_unharmed(self) -> None:
        """Nothing of the fleet counts a copy."""
        assert [m.view.in_flight for m in self.fleet.members()] == [0, 0]
        assert [m.breaker.state for m in self.fleet.members()] == ["closed", "closed"]
        assert self.fleet.budget.active == self.fleet.budget.retrying == 0
        assert self.fleet.pools["next"].round_robin == 0
        assert not len(self.fleet.lines["next"].queue)
        assert not self.fleet.lines["next"].shares.running
        assert not self.pipeline.shadows.running


def run(scenario: Callable[[World], Any], **world: Any) -> World:
    async def play() -> World:
        found = World(**world)
        await scenario(found)
        await found.settle()
        found.check_unharmed()
        return found

    return asyncio.run(play())
