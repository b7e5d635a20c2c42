"""Terminal output of long steps: finished steps with seconds, and the steps in progress."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

HEARTBEAT_SECONDS = 10.0


class Console:
    """Prints steps as they end and, every few seconds, the steps in progress. Thread-safe."""

    def __init__(self, out: TextIO | None = None, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._out = out or sys.stdout
        self._lock = threading.Lock()
        self._running: dict[str, float] = {}
        self._progress: dict[str, Callable[[], str]] = {}
        self._heartbeat_seconds = heartbeat_seconds
        self.seconds: dict[str, float] = {}

    def line(self, text: str = "") -> None:
        with self._lock:
            print(text, file=self._out, flush=True)

    def problem(self, text: str) -> None:
        with self._lock:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, what: str, progress: Callable[[], str] | None = None) -> Iterator[None]:
        """Print and store the seconds of ``what`` when the block ends.

        ``progress`` returns how far the step is; each heartbeat shows it.
        """
        started = time.monotonic()
        if progress:
            self._progress[what] = progress
        self._running[what] = started
        try:
            yield
        except BaseException:
            self.line(f"  failed  {time.monotonic() - started:6.1f} s  {what}")
            raise
        else:
            self.done(what, time.monotonic() - started)
        finally:
            self._running.pop(what, None)
            self._progress.pop(what, None)

    def done(self, what: str, seconds: float) -> None:
        self.seconds[what] = seconds
        self.line(f"  ok      {seconds:6.1f} s  {what}")

    def waiting(self, what: str, since: float) -> None:
        """Make the heartbeat name ``what`` it waits for, as `name: why`."""
        name = what.partition(":")[0]
        for known in [known for known in self._running if known.partition(":")[0] == name]:
            del self._running[known]
        self._running[what] = since

    def forget(self, names: Iterable[str]) -> None:
        """Stop naming a finished wait in the heartbeat."""
        gone = set(names)
        for known in [known for known in self._running if known.partition(":")[0] in gone]:
            del self._running[known]

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Print the steps in progress every few seconds while the block runs."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self._heartbeat_seconds):
                now = time.monotonic()
                waiting = [
                    f"{what} ({self._how_far(what)}{now - since:.0f} s)"
                    for what, since in list(self._running.items())
                ]
                if waiting:
                    self.line(f"  ...               {', '.join(waiting)}")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _how_far(self, what: str) -> str:
        progress = self._progress.get(what)
        return f"{progress()}, " if progress else ""
