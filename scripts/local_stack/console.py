"""What the terminal shows while something takes long: steps, seconds, what is still under way."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

HEARTBEAT_SECONDS = 10.0


class Console:
    """Prints steps as they end and, every few seconds, which ones are still under way. Thread-safe."""

    def __init__(self, out: TextIO | None = None, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._out = out or sys.stdout
        self._lock = threading.Lock()
        self._running: dict[str, float] = {}
        self._heartbeat_seconds = heartbeat_seconds
        self.seconds: dict[str, float] = {}

    def line(self, text: str = "") -> None:
        with self._lock:
            print(text, file=self._out, flush=True)

    def problem(self, text: str) -> None:
        with self._lock:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Show ``what`` with its seconds when the block ends; remember the figure."""
        started = time.monotonic()
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

    def done(self, what: str, seconds: float) -> None:
        self.seconds[what] = seconds
        self.line(f"  ok      {seconds:6.1f} s  {what}")

    def waiting(self, what: str, since: float) -> None:
        """Let the heartbeat name something that is waited for; ``what`` is `name: why`."""
        name = what.partition(":")[0]
        for known in [known for known in self._running if known.partition(":")[0] == name]:
            del self._running[known]
        self._running[what] = since

    def forget(self, names: Iterable[str]) -> None:
        """Stop naming what is no longer waited for."""
        gone = set(names)
        for known in [known for known in self._running if known.partition(":")[0] in gone]:
            del self._running[known]

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Say every few seconds what is still under way while the block runs."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self._heartbeat_seconds):
                now = time.monotonic()
                waiting = [f"{what} ({now - since:.0f} s)" for what, since in list(self._running.items())]
                if waiting:
                    self.line(f"  ...               {', '.join(waiting)}")

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
