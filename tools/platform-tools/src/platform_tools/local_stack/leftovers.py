"""Processes of a stack that outlived their supervisor: finds and ends them, by process id only."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

# Every process of a stack, and its children, have the run folder in this variable.
MARKER = "LOCAL_STACK_RUN_DIR"


@dataclass(frozen=True)
class Leftover:
    """A process with a stack's mark in its environment."""

    pid: int
    command: str


def find_leftovers(run_dir: Path, proc: Path = Path("/proc")) -> list[Leftover]:
    """Return the processes of the stack in ``run_dir``, whoever started them; never this process."""
    mark = f"{MARKER}={run_dir}".encode()
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            if mark not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if command:
            found.append(Leftover(int(folder.name), command))
    return found


def end_leftovers(run_dir: Path, polite_seconds: float = 5.0) -> list[Leftover]:
    """End the processes that :func:`find_leftovers` finds, with SIGTERM and then SIGKILL; return them."""
    found = find_leftovers(run_dir)
    _signal(found, signal.SIGTERM)
    _signal(found, signal.SIGCONT)
    deadline = time.monotonic() + polite_seconds
    while find_leftovers(run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    _signal(find_leftovers(run_dir), signal.SIGKILL)
    deadline = time.monotonic() + polite_seconds
    while find_leftovers(run_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _signal(processes: list[Leftover], number: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except (ProcessLookupError, PermissionError):
            continue
