"""Real child processes for tests: start, readiness, log file and end. Must not depend on any program."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import httpx


class DidNotStart(AssertionError):
    """A process ended, or was not ready in time. The message carries the end of its log."""


def answers(url: str, status: int = 200) -> Callable[[], bool]:
    """Return a readiness check: true once a GET of ``url`` answers with ``status``."""

    def check() -> bool:
        try:
            return httpx.get(url, timeout=1.0).status_code == status
        except httpx.TransportError:
            return False

    return check


@contextlib.contextmanager
def running(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    ready: Callable[[], bool],
    ready_seconds: float = 20.0,
    stop_seconds: float = 10.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in a new session until the block ends; the block starts once ``ready()`` is true.

    Output goes to ``log``. At the end the process gets SIGTERM, and after ``stop_seconds`` its whole
    process group SIGKILL (even if SIGSTOP has stopped it).

    Raises:
        DidNotStart: it ended early, or ``ready()`` stayed false for ``ready_seconds``.
    """
    with launched(command, log=log, stop_seconds=stop_seconds, env=env, cwd=cwd) as process:
        wait_until_ready(process, log, ready, ready_seconds)
        yield process


@contextlib.contextmanager
def launched(
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    stop_seconds: float = 10.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` like `running`, without waiting until it is ready."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process, stop_seconds)


def wait_until_ready(
    process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool], seconds: float = 20.0
) -> None:
    """Wait until ``ready()`` is true.

    Raises:
        DidNotStart: the process ended early, or was not ready within ``seconds``.
    """
    command = process.args[0] if isinstance(process.args, list) else process.args
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None:
            raise DidNotStart(f"{command!s} ended with {process.returncode}:\n{tail(log)}")
        if time.monotonic() > deadline:
            raise DidNotStart(f"{command!s} was not ready after {seconds} s:\n{tail(log)}")
        time.sleep(0.05)


def terminate(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to a process, even if SIGSTOP has stopped it. Does not wait."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()


def end(process: subprocess.Popen[bytes], stop_seconds: float = 10.0) -> None:
    """Stop a process started by :func:`running`: SIGTERM first, then SIGKILL to its process group."""
    if process.poll() is None:
        terminate(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(stop_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path, lines: int = 30) -> str:
    """Return the last ``lines`` lines of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
