"""Becomes one process of the stack and starts its keeper. Must not depend on what the process is.

Started by supervisord as `python -I -S keep_process.py SPEC.json`. It forks the keeper, then *execs* the
process, so that the supervisor's child is the process itself: signals and exit codes need no forwarding.
The keeper, a process of its own,

- writes the process's output as JSON lines into a log of bounded size,
- kills what the process leaves behind in its process group (an engine's workers, say),
- ends the process when the supervisor is gone, so that no part of a stack outlives it,
- ends it when its liveness probe fails as often as a pod's would (an engine that is stuck): the supervisor
  starts it again.

Standard library only: it starts in milliseconds and runs once per part.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import resource
import select
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PIPE_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20
MAX_FILES = 65536
ENDING_SECONDS = 3.0  # seconds for the supervisor to log how a process ended
LEFT_BEHIND_SECONDS = 1.0  # seconds for a process's children to exit after it

# vLLM and uvicorn ("INFO 11-24", "ERROR:"), logfmt of Prometheus, redis ("* Ready", "# WARNING").
LEVEL = re.compile(
    rb"level=(?P<logfmt>[a-z]+)|(?<![A-Za-z])(?P<word>DEBUG|INFO|WARNING|ERROR|CRITICAL)(?![A-Za-z])"
)


def wrap(line: bytes, service: str, now: datetime) -> bytes:
    """Return ``line`` as one JSON log line; a line that is a JSON object stays as it is."""
    if line.startswith(b"{") and line.endswith(b"}"):
        return line
    found = LEVEL.search(line[:400])
    level = (found["logfmt"] or found["word"]).decode().lower() if found else "info"
    stamp = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
    document = {
        "time": stamp,
        "level": {"warn": "warning"}.get(level, level),
        "service": service,
        "event": line.decode(errors="replace"),
    }
    return json.dumps(document, ensure_ascii=False).encode()


class BoundedLog:
    """Appends lines to a file; at ``max_bytes`` it becomes ``FILE.1``, so two files bound the space.

    A full disk loses lines but never blocks the process that wrote them.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._file).st_size

    def write(self, block: bytes) -> None:
        try:
            if self._size + len(block) > self._max_bytes and self._size:
                os.close(self._file)
                os.replace(self._path, self._path + ".1")
                self._open()
            self._size += os.write(self._file, block)
        except OSError:
            self._size = min(self._size, self._max_bytes)


class Lines:
    """Cuts a byte stream into lines and wraps each."""

    def __init__(self, log: BoundedLog, service: str) -> None:
        self._log = log
        self._service = service
        self._rest = b""

    def feed(self, block: bytes) -> None:
        *lines, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        now = datetime.now(UTC)
        out = [wrap(line, self._service, now) for line in lines if line.strip()]
        if out:
            self._log.write(b"\n".join(out) + b"\n")

    def say(self, event: str, level: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        document = {"time": now, "level": level, "service": self._service, "event": event, **fields}
        self._log.write(json.dumps(document).encode() + b"\n")

    def finish(self) -> None:
        if self._rest:
            self.feed(b"\n")


def keep(read_end: int, leader: int, leader_fd: int, supervisor_fd: int | None, spec: dict[str, Any]) -> None:
    """Copy output and watch both processes until the kept one and its output have ended."""
    lines = Lines(BoundedLog(spec["log"], spec["max_bytes"]), spec["service"])
    if spec.get("liveness"):
        watching = (leader, leader_fd, lines, spec)
        threading.Thread(target=watch_liveness, args=watching, daemon=True).start()
    poller = select.poll()
    for descriptor in (read_end, leader_fd, supervisor_fd):
        if descriptor is not None:
            poller.register(descriptor, select.POLLIN)
    deadline: float | None = None
    leader_lives = True
    while True:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = {descriptor for descriptor, _ in poller.poll(None if wait is None else wait * 1000)}
        if read_end in ready:
            block = os.read(read_end, 1 << 16)
            if not block:
                break
            lines.feed(block)
        if supervisor_fd in ready:
            poller.unregister(supervisor_fd)
            lines.say("the supervisor is gone, ending too", "warning")
            _signal_group(leader, signal.SIGTERM)
            deadline = min(deadline or float("inf"), time.monotonic() + spec["stop_seconds"])
        if leader_fd in ready and leader_lives:
            leader_lives = False
            poller.unregister(leader_fd)
            deadline = time.monotonic() + LEFT_BEHIND_SECONDS
        if deadline is not None and time.monotonic() >= deadline:
            _signal_group(leader, signal.SIGKILL)
            if not leader_lives:
                break
            deadline = time.monotonic() + LEFT_BEHIND_SECONDS
    lines.finish()
    # The output may be closed while the process lives (a daemon that closed its descriptors).
    if leader_lives and not select.select([leader_fd], [], [], 0)[0]:
        watched = [leader_fd] + ([supervisor_fd] if supervisor_fd is not None else [])
        select.select(watched, [], [])
        _signal_group(leader, signal.SIGTERM)
        select.select([leader_fd], [], [], spec["stop_seconds"])
    _signal_group(leader, signal.SIGKILL)
    ending = wait_for_ending(spec.get("supervisor_log"), spec["service"], leader)
    level = "info" if ending in ("", "exit status 0", "terminated by SIGTERM") else "error"
    lines.say("process ended", level, pid=leader, **({"ending": ending} if ending else {}))


def wait_for_ending(log: str | None, service: str, pid: int) -> str:
    """Return how a process ended ("exit status 1", "terminated by SIGKILL"), as the supervisor logs it.

    Only the supervisor, its parent, has the exit status. Returns "" if the supervisor logs nothing within a
    few seconds.
    """
    deadline = time.monotonic() + ENDING_SECONDS
    while log and time.monotonic() < deadline:
        if ending := logged_ending(log, service, pid):
            return ending
        time.sleep(0.05)
    return ""


def logged_ending(log: str, service: str, pid: int | None = None) -> str:
    """Return how a process ended, from the supervisor's log; "" if nothing is logged.

    With ``pid`` the first ending after the start of that process, else the last one of the service.
    """
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 18)))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    endings = rf"(?:exited|stopped): {re.escape(service)} \(([^;)]+)"
    if pid is None:
        return next(reversed(re.findall(endings, text)), "")
    _, started, after = text.rpartition(f"spawned: '{service}' with pid {pid}\"")
    found = re.search(endings, after) if started else None
    return found[1] if found else ""


def watch_liveness(leader: int, leader_fd: int, lines: Lines, spec: dict[str, Any]) -> None:
    """Run the probe until it has failed ``failures`` times in a row, then stop the process.

    As in a kubelet, failures before the first success do not count, and a timeout is a failure.
    """
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    probe = spec["liveness"]
    address = urlsplit(probe["url"])
    failed: int | None = None
    while not select.select([leader_fd], [], [], probe["period_seconds"])[0]:
        connection = HTTPConnection(address.hostname or "127.0.0.1", address.port, timeout=2)
        why = ""
        try:
            connection.request("GET", address.path)
            answer = connection.getresponse()
            why = (
                "" if answer.status == 200 else f"{answer.status} {answer.read(500).decode(errors='replace')}"
            )
        except (OSError, HTTPException) as error:
            why = f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        if not why:
            failed = 0
        elif failed is not None:
            failed += 1
            if failed >= probe["failures"]:
                lines.say("liveness failed, ending the process", "error", probe=probe["url"], why=why)
                _signal_group(leader, signal.SIGTERM)
                select.select([leader_fd], [], [], spec["stop_seconds"])
                _signal_group(leader, signal.SIGKILL)
                return


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _detach(read_end: int, write_end: int) -> None:
    os.setsid()
    os.close(write_end)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        spec: dict[str, Any] = json.load(file)
    libc = ctypes.CDLL(None, use_errno=True)
    supervisor, leader = os.getppid(), os.getpid()
    if os.getpgid(0) != leader:
        os.setpgid(0, 0)
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    leader_fd = os.pidfd_open(leader)
    supervisor_fd = os.pidfd_open(supervisor) if spec["ends_with_parent"] else None
    # Fork twice, so that the process has no child that it did not start.
    middle = os.fork()
    if middle == 0:
        if os.fork() == 0:
            _detach(read_end, write_end)
            keep(read_end, leader, leader_fd, supervisor_fd, spec)
        os._exit(0)
    os.waitpid(middle, 0)
    if spec["ends_with_parent"]:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != supervisor:
            sys.exit(1)
    else:
        # The supervisor adopts and reaps keepers, also in a container whose process 1 does not.
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_FILES, hard), hard))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.chdir(spec["cwd"])
    environment = {**os.environ, **spec["env"]}
    try:
        os.execvpe(spec["command"][0], spec["command"], environment)
    except OSError as error:
        print(f"ERROR cannot start {spec['command'][0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


if __name__ == "__main__":
    main()
