"""Asks a backend's agent (or a bare engine) for its health, over kept-alive connections of an :class:`Upstream`.

An answer that did not change is not parsed: the agent confirms its entity tag with 304, an engine repeats its bytes.
"""

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic
from urllib.parse import quote, urlsplit

import orjson

from router_service.ports import ConnectFailed, Exchange, Health, StaleConnection, Upstream, UpstreamError
from router_service.routing.vocabulary import State

MAX_BODY_BYTES = 64 * 1024
"""Most bytes read of one answer. A longer body says nothing beyond its status."""

Done = Callable[[Health], None]


class HttpProbe:
    """One GET per probe; each ends within ``timeout_seconds``, its connection included."""

    def __init__(self, upstream: Upstream, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._upstream = upstream
        self._targets: dict[str, _Target] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[_Probe, float] = {}
        """The running probes, and the monotonic time at which each expires."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = inf

    def begin(self, health_url: str, done: Done) -> None:
        """GET ``health_url``: 200 and 304 are ready. The agent's JSON names the state; a bare engine has none."""
        target = self._targets.get(health_url)
        if target is None:
            target = self._targets[health_url] = _Target(self._upstream, health_url)
        _Probe(self, self._upstream, target, done).begin()

    def forget(self, health_url: str) -> None:
        """Close the connections to a backend that is gone."""
        target = self._targets.pop(health_url, None)
        if target is not None and all(other.base != target.base for other in self._targets.values()):
            self._upstream.forget(target.base)

    async def close(self) -> None:
        """Close the connections."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._upstream.close()

    def run(self, task: asyncio.Task[None]) -> None:
        """Keep a reference to a task until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def began(self, probe: "_Probe") -> None:
        """Let ``probe`` expire in time. One timer serves all probes: setting one for each costs more than the rest."""
        due = self._running[probe] = monotonic() + self.timeout_seconds
        if due < self._timer_due:
            self._expire_at(due)

    def ended(self, probe: "_Probe") -> None:
        """Forget a probe."""
        self._running.pop(probe, None)

    def _expire_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = asyncio.get_running_loop().call_later(max(0.001, due - monotonic()), self._expire)

    def _expire(self) -> None:
        now = monotonic()
        try:
            # A probe that begins here is not due before `_timer_due`, so it sets no timer.
            for probe in [probe for probe, due in self._running.items() if due <= now]:
                probe.expire()
        finally:
            self._timer, self._timer_due = None, inf
            if self._running:
                self._expire_at(min(self._running.values()))


class _Target:
    """One health URL: its request, and the latest answer with what it meant."""

    __slots__ = ("base", "body", "etag", "health", "request", "status")

    def __init__(self, upstream: Upstream, health_url: str) -> None:
        parts = urlsplit(health_url)
        self.base = f"{parts.scheme}://{parts.netloc}"
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
        head = upstream.head(self.base, b"GET", path.encode("ascii", "replace"))
        self.request = head + b"accept: application/json\r\nuser-agent: router-service\r\n"
        self.etag = b""
        self.status = 0
        self.body = b""
        self.health: Health | None = None

    def message(self) -> bytes:
        """Return the request as it is sent next."""
        if self.etag:
            return self.request + b"if-none-match: " + self.etag + b"\r\n\r\n"
        return self.request + b"\r\n"

    def read(self, status: int, etag: bytes, body: bytes) -> Health:
        """Return what an answer means."""
        health = self.health
        if status == 304 and health is not None:
            return health
        if status != self.status or body != self.body or health is None:
            self.status, self.body = status, body
            health = self.health = read_health(status, body)
        self.etag = etag if status == 200 else b""
        return health


class _Probe:
    """One running probe; receives the answer as a :class:`ResponseSink`."""

    __slots__ = (
        "_body",
        "_done",
        "_etag",
        "_exchange",
        "_owner",
        "_status",
        "_target",
        "_upstream",
    )

    def __init__(self, owner: HttpProbe, upstream: Upstream, target: _Target, done: Done) -> None:
        self._owner = owner
        self._upstream = upstream
        self._target = target
        self._done: Done | None = done
        self._exchange: Exchange | None = None
        self._status = 0
        self._etag = b""
        self._body = b""

    def begin(self) -> None:
        """Send on an idle connection, or open one."""
        self._owner.began(self)
        exchange = self._upstream.idle(self._target.base)
        if exchange is not None:
            self._send(exchange)
        else:
            self._dial()

    def _send(self, exchange: Exchange) -> None:
        self._exchange = exchange
        exchange.send(self._target.message(), self)

    def _dial(self) -> None:
        self._owner.run(asyncio.get_running_loop().create_task(self._connect()))

    async def _connect(self) -> None:
        try:
            exchange = await self._upstream.connect(self._target.base, self._owner.timeout_seconds)
        except ConnectFailed as error:
            self._lost(error, refused=not error.timed_out)
            return
        if self._done is None:
            exchange.close()
        else:
            self._send(exchange)

    def expire(self) -> None:
        """End the probe, because the backend did not answer in time."""
        if self._exchange is not None:
            self._exchange.abort()
        self._end(
            Health(False, State.UNREACHABLE, detail=f"no answer within {self._owner.timeout_seconds:g} s")
        )

    def _lost(self, error: UpstreamError, *, refused: bool = False) -> None:
        detail = f"{type(error).__name__}: {error}"
        self._end(Health(False, State.UNREACHABLE, detail=detail, refused=refused))

    def _end(self, health: Health) -> None:
        done, self._done = self._done, None
        self._owner.ended(self)
        if done is not None:
            done(health)

    # -- ResponseSink --------------------------------------------------------------------------

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status
        for name, value in headers:
            if name == b"etag":
                self._etag = value

    def on_body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            if self._exchange is not None:
                self._exchange.abort()
            self._end(self._target.read(self._status, b"", b""))

    def on_end(self) -> None:
        self._end(self._target.read(self._status, self._etag, self._body))

    def on_failure(self, error: UpstreamError) -> None:
        self._exchange = None
        if isinstance(error, StaleConnection) and self._done is not None:
            self._dial()
        else:
            self._lost(error)


def read_health(status: int, body: bytes) -> Health:
    """Return what an answer of ``/readyz`` or ``/health`` means. A body that is not the agent's JSON is ``unknown``."""
    ready = status == 200
    state = State.UNKNOWN
    waiting = 0.0
    slots = start_seconds = None
    stores = True
    try:
        answer = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        answer = {}
    if isinstance(answer, dict):
        said = answer.get("state")
        if isinstance(said, str) and said in State.__members__.values():
            state = State(said)
        engine = answer.get("engine")
        queue = engine.get("waiting") if isinstance(engine, dict) else None
        if isinstance(queue, int | float):
            waiting = float(queue)
        reported = engine.get("max_num_seqs") if isinstance(engine, dict) else None
        if type(reported) is int and reported > 0:
            slots = reported
        stores = not isinstance(engine, dict) or engine.get("stores_responses") is not False
        took = answer.get("start_seconds")
        if isinstance(took, int | float) and not isinstance(took, bool) and 0 <= took < 86400:
            start_seconds = float(took)
    return Health(
        ready,
        state,
        waiting,
        "" if ready else f"status {status}",
        slots=slots,
        start_seconds=start_seconds,
        stores_responses=stores,
    )
