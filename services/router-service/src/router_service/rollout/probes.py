"""Answers the probes of the controller's pod: whether it turns, and whether it can work."""

import time
from collections.abc import Callable

from aiohttp import web

STUCK_SECONDS = 60.0
"""A turn takes seconds: each of its requests has a timeout of 5 s or less."""


class Probes:
    """`/healthz` fails if no turn ended for a minute, `/readyz` while ``problem`` is set or before the first turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned = clock()
        self.problem: str | None = "no turn has ended yet"

    def turned(self, problem: str | None) -> None:
        """Note the end of a turn, and what kept the controller from working in it."""
        self._turned = self._clock()
        self.problem = problem

    async def serve(self, host: str, port: int) -> web.AppRunner:
        """Listen until the returned runner's `cleanup`.

        Raises:
            OSError: the address cannot be used.
        """
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        return runner

    async def _healthz(self, _: web.Request) -> web.Response:
        idle = self._clock() - self._turned
        if idle > STUCK_SECONDS:
            return web.Response(status=503, text=f"no turn has ended for {idle:.0f} s\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self.problem is not None:
            return web.Response(status=503, text=self.problem + "\n")
        return web.Response(text="ok\n")
