"""Work in a thread for as long as a block lasts."""

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Self


class Background(ABC):
    """Runs `work` in a thread while the block lasts. ``work`` returns soon after ``stop`` is set.

    ``join_seconds``: how long the end of the block waits for it.
    """

    join_seconds = 60.0

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.work, name=type(self).__name__, daemon=True)

    @abstractmethod
    def work(self) -> None:
        """Do the work of the thread."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self._thread.join(self.join_seconds)


@contextlib.contextmanager
def served(
    start: Callable[[], Coroutine[Any, Any, asyncio.Server]], prepare: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Run the server that ``start`` opens on an event loop in a new thread until the block ends.

    ``prepare`` is called in that thread first.
    """
    loop = asyncio.new_event_loop()

    def run() -> None:
        prepare()
        loop.run_forever()

    async def stop(server: asyncio.Server) -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
