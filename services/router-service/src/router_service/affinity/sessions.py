"""Session pins for the request path, from a local cache or else from the store, within a short timeout.

When the store is frozen, slow, full or gone, requests are placed by rendezvous hashing, on which all replicas agree
without the store. No request queries the store again until :meth:`Sessions.try_again` has found it working. Pins are
written and renewed off the request path.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import NamedTuple

from router_service.ports import AffinityStore, AffinityUnavailable

CACHE_SECONDS = 5.0
"""How long a cached pin is used. Another replica's change takes effect after at most this time."""

RENEWED_OF_TTL = 0.1
"""Share of its time to live after which a pin in use is written again, so that it does not expire."""

RETRY_SECONDS = 1.0
"""How long a failed store is not queried. A recovery is detected at most this much later."""

TRIAL_KEY = "trial"
"""Key written to test whether the store works again: a write fails if the store is full or read-only."""

WARN_SECONDS = 10.0
MAX_CACHED = 50_000

MAX_LATE = 10_000
"""Most moved pins that wait for the store. Other routers cannot derive them, as they can a session's first backend."""


class _Pin(NamedTuple):
    """A cached pin: until when it is used and from when it is written again (clock seconds)."""

    backend: str
    believed_until: float
    renew_at: float


class Sessions:
    """Looks up and stores pins; ``up`` is False while the store fails.

    ``clock`` returns seconds; ``warn`` is called at most once per ``WARN_SECONDS``.
    """

    def __init__(
        self,
        store: AffinityStore,
        ttl_seconds: float,
        clock: Callable[[], float],
        warn: Callable[[str], None] = lambda detail: None,
    ) -> None:
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        self._warn = warn
        self._cache: OrderedDict[str, _Pin] = OrderedDict()
        self._late: OrderedDict[str, str] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting_until = 0.0
        self._warned_at = float("-inf")
        self.up = True

    def reconfigure(self, ttl_seconds: float) -> None:
        """Apply a new time to live."""
        self._ttl_seconds = ttl_seconds

    def cached(self, key: str) -> str | None:
        """Return the cached pin ("" if there is none), or None if the caller must use :meth:`pin`."""
        found = self._cache.get(key)
        if not self.up:
            return found.backend if found is not None else ""
        if found is not None and found.believed_until > self._clock():
            return found.backend
        return None

    async def pin(self, key: str) -> str:
        """Return the backend of a session, or "" if there is none or the store does not reply in time."""
        known = self.cached(key)
        if known is not None:
            return known
        try:
            backend = await self._store.pin(key)
        except AffinityUnavailable as error:
            self._failed(error)
            stale = self._cache.get(key)
            return stale.backend if stale is not None else ""
        before = self._cache.pop(key, None)
        if backend:
            same = before is not None and before.backend == backend
            self._remember(key, backend, before.renew_at if same and before is not None else 0.0)
        return backend

    def placed(self, key: str, backend: str, *, moved: bool = False) -> None:
        """Record off the request path that a request of the session went to ``backend``: set or renew the pin.

        ``moved``: ``backend`` replaces the pinned backend, which could not accept the request.
        """
        known = self._cache.get(key)
        now = self._clock()
        if known is not None and known.backend == backend and now < known.renew_at:
            return
        if not self.up:
            self._remember(key, backend, 0.0)
            if moved:
                self._write_later(key, backend)
            return
        if self._late and self._late.pop(key, ""):
            moved = True
        self._remember(key, backend, now + self._ttl_seconds * RENEWED_OF_TTL)
        self._start(self._write(key, backend, moved))

    def forget(self, backend: str) -> None:
        """Drop the cached pins to a removed backend; another replica may have moved these sessions."""
        for key in [key for key, pin in self._cache.items() if pin.backend == backend]:
            del self._cache[key]

    def try_again(self) -> None:
        """Test, off the request path, whether a failed store works again. Called periodically."""
        if not self.up and self._clock() >= self._resting_until:
            self._resting_until = self._clock() + RETRY_SECONDS
            self._start(self._try())

    async def close(self) -> None:
        """Wait for pending writes, then close the store."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        await self._store.close()

    async def _write(self, key: str, backend: str, moved: bool) -> None:
        try:
            if moved:
                await self._store.replace(key, backend, self._ttl_seconds)
            else:
                held = await self._store.claim(key, backend, self._ttl_seconds)
                if held == backend:
                    await self._store.replace(key, backend, self._ttl_seconds)  # Renews its time to live.
                else:
                    self._remember(key, held, 0.0)
        except AffinityUnavailable as error:
            self._failed(error)
            self._remember(key, backend, 0.0)
            if moved:
                self._write_later(key, backend)

    def _write_later(self, key: str, backend: str) -> None:
        """Keep a moved pin until the store works again; beyond `MAX_LATE` the oldest is dropped."""
        self._late[key] = backend
        self._late.move_to_end(key)
        if len(self._late) > MAX_LATE:
            self._late.popitem(last=False)

    async def _write_late(self) -> None:
        while self.up and self._late:
            key, backend = self._late.popitem(last=False)
            await self._write(key, backend, moved=True)

    async def _try(self) -> None:
        try:
            await self._store.replace(TRIAL_KEY, "", RETRY_SECONDS)
        except AffinityUnavailable as error:
            self._failed(error)
        else:
            self.up = True
            self._start(self._write_late())

    def _start(self, write: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(write)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _remember(self, key: str, backend: str, renew_at: float) -> None:
        # Pins learnt while the store is down expire at once, so that they are written when it is back.
        believed_until = self._clock() + (CACHE_SECONDS if self.up else 0.0)
        self._cache[key] = _Pin(backend, believed_until, renew_at)
        self._cache.move_to_end(key)
        if len(self._cache) > MAX_CACHED:
            self._cache.popitem(last=False)

    def _failed(self, error: AffinityUnavailable) -> None:
        now = self._clock()
        self.up = False
        self._resting_until = now + RETRY_SECONDS
        if now - self._warned_at >= WARN_SECONDS:
            self._warned_at = now
            self._warn(str(error))
