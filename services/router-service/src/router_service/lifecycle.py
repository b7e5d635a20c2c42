"""One router process from start to end: start, drain, abort. Owns the signals and uvicorn's server.

At SIGTERM: (1) readiness fails at once, copies of requests are dropped, and every response closes its connection;
(2) requests are still accepted for `server.settle_seconds`, or until no more arrive; (3) the listener closes, and running
requests get `timeouts.total_seconds`; (4) requests that still run are ended with an error. A second signal goes to step 4
at once.
"""

import asyncio
import contextlib
import functools
import logging
import signal

import uvicorn

from platform_contracts.listening import host_of_both_families
from platform_contracts.log_lines import LibraryLog
from router_service.api.uvicorn_relay import Draining, RelayProtocol
from router_service.app import Router

LAST_SECONDS = 2.0
"""Time for sending the error events of aborted responses."""

KEEP_ALIVE_SECONDS = 60
"""Longer than the edge keeps idle connections (50 s), so that the edge closes first."""


class Lifecycle:
    """Runs ``router`` on ``host`` and ``port`` until a signal ends it."""

    def __init__(self, router: Router, host: str, port: int) -> None:
        self._router = router
        self._draining = Draining()
        self._stopping: asyncio.Task[None] | None = None
        logging.getLogger().addHandler(LibraryLog(router.log))
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                router.asgi,
                host=host_of_both_families(host),
                port=port,
                http=functools.partial(RelayProtocol, draining=self._draining),  # type: ignore[arg-type]
                interface="asgi3",  # uvicorn detects it only of coroutine functions.
                ws="none",
                loop="uvloop",
                lifespan="on",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=None,
                backlog=4096,
            )
        )

    async def run(self) -> int:
        """Serve; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        # uvicorn's own handler would close the listener at once.
        self._uvicorn.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        try:
            await self._uvicorn.serve()
        except SystemExit:  # uvicorn could not start; its log has the reason.
            return 1
        return 0

    def _signalled(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        else:
            self._abort()
            self._uvicorn.should_exit = True

    async def _stop(self) -> None:
        await self._drain()
        self._abort()
        await asyncio.sleep(LAST_SECONDS)
        # Close connections of clients that never sent the rest of their request or do not read their response.
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()

    async def _drain(self) -> None:
        """Wait until the edge sends no more requests, then let running requests finish within
        `timeouts.total_seconds`.
        """
        router = self._router
        values = router.config.values
        router.readiness.drain()
        router.pipeline.shadows.stop()
        self._draining.begin()
        router.log("info", "draining", settle_seconds=values.server.settle_seconds)
        await asyncio.sleep(values.server.settle_seconds)
        self._uvicorn.should_exit = True
        await asyncio.sleep(values.timeouts.total_seconds)

    def _abort(self) -> None:
        """End running requests with an error and start no retries."""
        self._router.pipeline.stop_retrying()
        self._router.pipeline.abort_all("the router is shutting down")
