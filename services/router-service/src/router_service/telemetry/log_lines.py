"""Writes log lines to a file descriptor in a separate thread, so that a slow disk or pipe never delays a request.

Must not know what a line contains. When the buffer is full, the newest lines are dropped and counted.
"""

import os
import threading
from collections import deque

MAX_BUFFERED_BYTES = 16 * 1024 * 1024


class LineWriter:
    """Queues lines without waiting; a thread writes the queued lines every ``interval_seconds``."""

    def __init__(self, fd: int, interval_seconds: float = 0.1) -> None:
        self._fd = fd
        self._interval_seconds = interval_seconds
        self._lines: deque[bytes] = deque()
        self._written_bytes = 0
        self._taken_bytes = 0
        self._stop = threading.Event()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue one line (with its newline)."""
        if self._taken_bytes - self._written_bytes > MAX_BUFFERED_BYTES:
            self.dropped += 1
            return
        self._taken_bytes += len(line)
        self._lines.append(line)

    def close(self) -> None:
        """Write the queued lines and end the thread; give up after two seconds."""
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines: list[bytes] = []
        while self._lines:
            lines.append(self._lines.popleft())
        if not lines:
            return
        whole = b"".join(lines)
        data = memoryview(whole)
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:  # The reader is gone or the disk is full, so the error cannot be logged either.
            self.dropped += len(lines)
        self._written_bytes += len(whole)
