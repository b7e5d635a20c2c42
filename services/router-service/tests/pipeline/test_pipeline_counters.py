"""Every counter returns to exactly zero after responses, failures, disconnects and reloads."""

import asyncio
from collections import deque
from random import Random
from time import perf_counter

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.fake_upstream import FakeUpstream, Script
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.ends import End
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.line import Bounds
from router_service.pipeline.pipeline import Pipeline
from router_service.pipeline.settings import Settings
from router_service.ports import Endpoint, Health
from router_service.resilience.breaker import BreakerSettings
from router_service.resilience.retry_budget import RetryBudget
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, Target
from router_service.routing.session_sources import SessionSources
from router_service.routing.vocabulary import Outcome, State

EVENTS = (b'data: {"id":"1","choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n")
STREAM = ((b"content-type", b"text/event-stream"),)
SCRIPTS = (
    Script(200, STREAM, EVENTS),
    Script(200, STREAM, EVENTS[:1], "break"),
    Script(200, STREAM, EVENTS[:1]),
    Script(200, STREAM, (), "break"),
    Script(200, STREAM, (b'data: {"error":{"message":"dead"}}\n\n', EVENTS[1])),
    Script(503, (), (b"busy",)),
    Script(400, (), (b'{"detail":"no"}',)),
    Script(200, STREAM, EVENTS, "stale"),
    Script(200, STREAM, EVENTS[:1], "silence"),
)


class Client:
    """A relay that stores its output and can disconnect."""

    def __init__(self) -> None:
        self.gone = False
        self.starts = 0
        self.ends: list[str] = []
        self.data = b""
        self._listener = None

    def listen(self, listener) -> None:
        self._listener = listener
        if listener is not None and self.gone:
            listener.client_gone()

    def start(self, status, headers) -> None:
        self.starts += 1

    def write(self, data: bytes) -> None:
        assert self.starts == 1
        if not self.gone:
            self.data += data

    def finish(self, trailers=()) -> None:
        self.ends.append("finish")

    def abort(self) -> None:
        self.ends.append("abort")

    async def settled(self) -> None:
        pass

    def leave(self) -> None:
        self.gone = True
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.client_gone()


class Watched(RetryBudget):
    """Counts all spent retries, and the most at one time."""

    def __init__(self, ratio: float, minimum: int) -> None:
        super().__init__(ratio, minimum)
        self.spent = self.most = 0

    def try_spend(self) -> bool:
        allowed = super().try_spend()
        self.spent += allowed
        self.most = max(self.most, self.retrying)
        return allowed


def endpoints(count: int) -> list[Endpoint]:
    return [Endpoint(f"b{n}", f"http://b{n}:1", f"http://b{n}:1/health") for n in range(count)]


async def play(
    plays: list[tuple[int, int | None]], removed_at: int, limit: int, resume: bool = False
) -> None:
    fleet = Fleet(["p"], Bounds(limit, 4, 0.05, 0.5, BreakerSettings(3, 0.01, 0.0), 0.2, 3), perf_counter)
    fleet.set_endpoints("p", endpoints(2))
    for number in range(2):
        fleet.set_health("p", f"b{number}", Health(True, State.IDLE))
    views = list(fleet.pools["p"].backends)
    upstream = FakeUpstream({f"http://b{n}:1": deque([SCRIPTS[0]]) for n in range(2)})
    rules = (Rule("resumed", Group("all", ()), (Target("p"),), resume=True),) if resume else ()
    policy = Policy({"p": Pool("p", "least_loaded", ("m",))}, rules, "p")
    finished: list[Job] = []
    pipeline = Pipeline(
        Settings(policy, 3, frozenset({502, 503, 504}), 0.05, SessionSources((b"x-session-id",)), 1000),
        fleet,
        upstream,
        None,
        finished.append,
        lambda seconds: None,
        Random(1),
    )
    body = orjson.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]})
    clients: list[Client] = []
    tasks = []
    fleet.budget = watched = Watched(0.2, 3)
    for number, (script, leaves_after) in enumerate(plays):
        for scripts in upstream.scripts.values():
            scripts.appendleft(SCRIPTS[script])
        client = Client()
        clients.append(client)
        caller = [(b"x-client-id", b"client-%d" % (number % 3 // 2))]  # one client asks twice as often
        inbound = Inbound.now(INFERENCE_PATHS["/v1/chat/completions"], b"/v1/chat/completions", caller)
        inbound.body = body if number % 7 else b"{bad"
        tasks.append(asyncio.create_task(pipeline.handle(inbound, client)))
        if number == removed_at:
            fleet.set_endpoints("p", endpoints(1))
            fleet.reconfigure(["p"], Bounds(limit + 1))
        if leaves_after is not None:
            for _ in range(leaves_after):
                await asyncio.sleep(0)
            client.leave()
    await asyncio.sleep(0.02)
    pipeline.abort_all("the test is over")
    while not all(task.done() for task in tasks):  # retries may have begun meanwhile
        await asyncio.sleep(0.005)
        pipeline.abort_all("the test is over")
    for task in tasks:
        task.result()
    assert len(finished) == len(plays), "one record for each"
    assert [view.in_flight for view in views] == [0] * len(views)
    check_budget(watched, finished)
    assert len(fleet.lines["p"].queue) == 0
    assert fleet.lines["p"].woken == 0
    assert fleet.lines["p"].shares.running == {}
    check_ends(finished, clients)


def check_budget(watched: Watched, finished: list[Job]) -> None:
    """Check that retries stayed within the budget, and that it is whole again."""
    assert watched.most <= max(3, 0.2 * len(finished)), "the retry budget was never exceeded"
    before = [a.outcome for job in finished for a in job.attempts[:-1]]
    charged = [end for end in before if end not in {End.CONNECT_FAILED, End.BROKEN}]
    assert len(charged) <= watched.spent, "no second attempt without the budget's leave, where work may go on"
    assert watched.active == 0
    assert watched.retrying == 0


def check_ends(finished: list[Job], clients: list[Client]) -> None:
    """Check that every request has an outcome, and that no client got two answers or a false end."""
    assert all(job.outcome is not None for job in finished)
    for client in clients:
        assert client.starts <= 1
        assert len(client.ends) <= 1
        if "finish" in client.ends and b"data: {" in client.data:
            assert client.data.endswith(b"data: [DONE]\n\n"), "no clean end without the terminal event"
    assert all(job.outcome is not Outcome.OK or job.status == 200 for job in finished)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, len(SCRIPTS) - 1), st.none() | st.integers(0, 12)), min_size=1, max_size=14
    ),
    st.integers(0, 13),
    st.integers(1, 3),
    st.booleans(),
)
def test_counters_return_to_zero_after_any_interleaving(
    plays, removed_at: int, limit: int, resume: bool
) -> None:
    asyncio.run(play(plays, removed_at, limit, resume))


def test_a_retry_that_is_refused_in_the_line_gives_its_budget_back() -> None:
    """Two requests retry at the same time on a backend with one slot: the second waits, then is refused."""
    asyncio.run(play([(5, None), (8, None), (8, None), (3, None), (5, None), (8, None)], 13, 1))
