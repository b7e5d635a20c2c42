"""Follows the backends of every pool as its discovery lists them. Must not know requests."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from router_service.background import Log, keep_running
from router_service.config.model import PoolSection
from router_service.pipeline.fleet import Fleet
from router_service.wiring import discovery


class BackendWatch:
    """One task per pool. ``listed`` is True for pools whose backends are known. ``on_change`` is called after every
    change.
    """

    def __init__(self, fleet: Fleet, on_change: Callable[[], None], log: Log) -> None:
        self._fleet = fleet
        self._on_change = on_change
        self._log = log
        self._tasks: dict[str, tuple[PoolSection, asyncio.Task[None]]] = {}
        self._report = asyncio.Event()
        self.listed: dict[str, bool] = {}

    def reconfigure(self, pools: Mapping[str, PoolSection]) -> None:
        """Follow these pools. A pool whose section did not change keeps its task and its known backends."""
        kept: dict[str, tuple[PoolSection, asyncio.Task[None]]] = {}
        for name, pool in pools.items():
            known = self._tasks.pop(name, None)
            if known is not None and (known[0].backends, known[0].discover) == (pool.backends, pool.discover):
                kept[name] = known
                continue
            if known is not None:
                self._end(name, known[1])
            if pool.backends is not None:
                self.listed[name] = True  # Listed in the configuration itself.
            follow = keep_running(f"discovery of {name}", self._follower(name, pool), self._log)
            kept[name] = (pool, asyncio.create_task(follow))
        for name, (_, task) in self._tasks.items():
            self._end(name, task)
        self._tasks = kept

    async def reported(self) -> None:
        """Wait until every pool was listed once, or could not be listed."""
        while not self._tasks.keys() <= self.listed.keys():
            self._report.clear()
            await self._report.wait()

    async def close(self) -> None:
        """Stop following."""
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, name: str, task: asyncio.Task[None]) -> None:
        task.cancel()
        self.listed.pop(name, None)

    def _follower(self, name: str, pool: PoolSection) -> Callable[[], Awaitable[None]]:
        def report(problem: str | None) -> None:
            self.listed[name] = problem is None
            self._report.set()
            if problem is not None:
                self._log("warning", "degraded", detail=problem)

        async def follow() -> None:
            listing = discovery(name, pool, report)
            try:
                async for endpoints in listing.watch():
                    self._fleet.set_endpoints(name, endpoints)
                    self._on_change()
            finally:
                await listing.close()

        return follow
