"""Rewrites the route table when the keys file or the settings file changes. Must not know Envoy otherwise."""

import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_gateway.settings import BadSettings

POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def start_watching(files: Sequence[Path], rewrite: Callable[[], None], say: Callable[..., None]) -> None:
    """Fork a process that calls ``rewrite`` after a change to one of ``files``, until its parent ends.

    The parent then replaces itself by Envoy. An invalid file is reported once and changes nothing.
    """
    known = _stamps(files)
    parent = os.getpid()
    if os.fork():
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # A signal to the process group ends Envoy first, and then this process.
        signal.signal(number, signal.SIG_IGN)
    try:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
            found = _stamps(files)
            if found == known:
                continue
            known = found
            try:
                rewrite()
                say("change", kind="edge_routes", reason="keys, clients or rates")
            except (BadSettings, OSError) as error:
                say("routes_not_rewritten", level="error", error=str(error))
    finally:
        os._exit(0)


def _stamps(files: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    stamps: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            stat = file.stat()
            stamps.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        except OSError:
            stamps.append(None)
    return stamps
