"""Restarts background tasks that end."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Protocol


class Log(Protocol):
    """Writes one line about the router itself."""

    def __call__(self, level: str, event: str, **values: object) -> None: ...


async def keep_running(name: str, run: Callable[[], Awaitable[None]], log: Log) -> None:
    """Call ``run`` repeatedly, one second after each end; log an exception and continue.

    A router whose health checks or reloads have silently stopped is worse than one that logs an error every second.
    """
    while True:
        try:
            await run()
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            log("error", "task_failed", task=name, exception=repr(error), traceback=trace)
        await asyncio.sleep(1.0)
