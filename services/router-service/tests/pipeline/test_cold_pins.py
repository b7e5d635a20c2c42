"""Sessions whose pin must be read from the store: the decision uses the fleet's state after the store's response."""

import asyncio
from collections import deque
from collections.abc import Callable
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
from router_service.pipeline.settings import Settings
from router_service.ports import Endpoint, Health
from router_service.routing.policy import Policy, Pool
from router_service.routing.session_sources import SessionSources
from router_service.routing.vocabulary import Outcome, State

CLIENTS, BACKENDS, LIMIT = 8, 4, 2
WHOLE = Script(200, (), (b'{"choices":[]}',))


class SlowStore:
    """A store without pins that responds after a moment."""

    up = True

    def __init__(self) -> None:
        self.asked = 0
        self.all_asked = asyncio.Event()
        self.answered = asyncio.Event()

    def cached(self, key: str) -> str | None:
        return None

    async def pin(self, key: str) -> str:
        self.asked += 1
        if self.asked == CLIENTS:
            self.all_asked.set()
        await self.answered.wait()
        return ""

    def placed(self, key: str, backend: str, *, moved: bool = False) -> None:
        pass


class Client:
    """A relay that counts nothing."""

    gone = False

    def listen(self, listener) -> None:
        pass

    def start(self, status, headers) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def finish(self, trailers=()) -> None:
        pass

    def abort(self) -> None:
        pass

    async def settled(self) -> None:
        pass


def endpoints(count: int) -> list[Endpoint]:
    return [Endpoint(f"b{n}", f"http://b{n}:1", f"http://b{n}:1/health") for n in range(count)]


async def asked_at_once(meanwhile: Callable[[Fleet], None]) -> tuple[list[Job], dict[str, int]]:
    """Send one request per slot, each of a new session, and call ``meanwhile`` before the store responds. Return the jobs
    and the most concurrent requests of each backend."""
    fleet = Fleet(["p"], Bounds(LIMIT, CLIENTS, 1.0), perf_counter)
    fleet.set_endpoints("p", endpoints(BACKENDS))
    for number in range(BACKENDS):
        fleet.set_health("p", f"b{number}", Health(True, State.IDLE))
    most: dict[str, int] = {}
    begin = fleet.begin

    def begun(backend, client, class_name) -> None:
        begin(backend, client, class_name)
        most[backend.name] = max(most.get(backend.name, 0), backend.in_flight)

    fleet.begin = begun  # type: ignore[method-assign]
    store = SlowStore()
    jobs: list[Job] = []
    policy = Policy({"p": Pool("p", "least_loaded", ("m",))}, (), "p")
    pipeline = Pipeline(
        Settings(policy, 3, frozenset({503}), 1.0, SessionSources((b"x-session-id",)), 1000),
        fleet,
        FakeUpstream({endpoint.url: deque([WHOLE]) for endpoint in endpoints(BACKENDS)}),
        store,
        jobs.append,
        lambda seconds: None,
        Random(1),
    )
    tasks = []
    for number in range(CLIENTS):
        header = (b"x-session-id", b"s%d" % number)
        inbound = Inbound.now(INFERENCE_PATHS["/v1/completions"], b"/v1/completions", [header])
        inbound.body = orjson.dumps({"model": "m", "prompt": "x"})
        tasks.append(asyncio.create_task(pipeline.handle(inbound, Client())))
    await store.all_asked.wait()
    meanwhile(fleet)
    store.answered.set()
    await asyncio.gather(*tasks)
    return jobs, most


async def test_new_sessions_that_wait_for_the_store_together_keep_every_backends_limit() -> None:
    jobs, most = await asked_at_once(lambda fleet: None)
    assert [job.outcome for job in jobs] == [Outcome.OK] * CLIENTS
    assert max(most.values()) <= LIMIT, most


async def test_a_backend_that_goes_while_the_store_is_asked_gets_nothing() -> None:
    jobs, most = await asked_at_once(lambda fleet: fleet.set_endpoints("p", endpoints(1)))
    assert [job.outcome for job in jobs] == [Outcome.OK] * CLIENTS
    assert set(most) == {"b0"}
