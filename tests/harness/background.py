"""Work in a thread for as long as a block lasts."""

import threading
from types import TracebackType
from typing import Self


class Background:
    """Runs `work` in a thread while the block lasts. ``work`` returns soon after ``stop`` is set.

    ``join_seconds``: how long the end of the block waits for it.
    """

    join_seconds = 60.0

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self.work, name=type(self).__name__, daemon=True)

    def work(self) -> None:
        """Do the work of the thread."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        self._thread.join(self.join_seconds)
