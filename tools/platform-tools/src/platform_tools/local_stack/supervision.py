"""The process supervisor: its configuration, start and stop, and its report on each part."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from platform_tools.local_stack.keep_process import logged_ending
from platform_tools.local_stack.leftovers import MARKER
from platform_tools.local_stack.parts import Part
from platform_tools.local_stack.settings import Settings

KEEPER = Path(__file__).with_name("keep_process.py")
LOG_BYTES = 32 << 20
START_SECONDS = 10.0


class SupervisorFailed(Exception):
    """The supervisor did not start or does not answer. The message contains the end of its output."""


@dataclass(frozen=True)
class PartState:
    """A part's state as reported by the supervisor: ``RUNNING STARTING BACKOFF EXITED FATAL STOPPED STOPPING``."""

    state: str
    pid: int
    said: str


class Supervisor:
    """One supervisord, found by its unix socket in the run folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = settings.run_dir / "supervisord.conf"
        self._specs = settings.run_dir / "parts"
        self._supervisor_log = settings.logs / "supervisor.jsonl"

    def is_alive(self) -> bool:
        """Return whether a supervisor answers on the socket (a stale socket file refuses connections)."""
        return is_listening(self._settings.supervisor_socket)

    def runs(self, parts: Iterable[Part]) -> bool:
        """Return whether the running supervisor was started for exactly these parts."""
        try:
            current = self._config.read_text()
            specs = {path.stem: path.read_text() for path in self._specs.glob("*.json")}
        except OSError:
            return False
        wanted = list(parts)
        return current == self._rendered(wanted) and specs == {
            part.name: self._spec(part) for part in wanted
        } | {"supervisor": self._supervisor_spec()}

    def start(self, parts: Iterable[Part]) -> None:
        """Start supervisord and with it every part.

        Raises:
            SupervisorFailed: it ended or does not answer.
        """
        wanted = list(parts)
        self._specs.mkdir(parents=True, exist_ok=True)
        for stale in self._specs.glob("*.json"):
            stale.unlink()
        for part in wanted:
            (self._specs / f"{part.name}.json").write_text(self._spec(part))
        spec = self._specs / "supervisor.json"
        spec.write_text(self._supervisor_spec())
        self._config.write_text(self._rendered(wanted))
        self._settings.supervisor_socket.unlink(missing_ok=True)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(KEEPER), str(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, MARKER: str(self._settings.run_dir)},
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_alive():
            if child.poll() is not None or time.monotonic() > deadline:
                said = last_lines(self._supervisor_log, 10)
                raise SupervisorFailed("supervisord did not start:\n" + "\n".join(said))
            time.sleep(0.05)

    def states(self) -> dict[str, PartState]:
        """Return every part's state by name.

        Raises:
            SupervisorFailed: the supervisor does not answer.
        """
        infos = cast(list[dict[str, Any]], self._call("getAllProcessInfo"))
        return {
            info["name"]: PartState(info["statename"], int(info["pid"]), str(info["description"]))
            for info in infos
        }

    def start_part(self, name: str) -> None:
        """Start a part that does not run; returns at once."""
        with contextlib.suppress(xmlrpc.client.Fault):
            self._call("startProcess", name, False)

    def stop_parts(self, names: Iterable[str], limit_seconds: float) -> None:
        """Stop some parts in parallel and wait for them, at most until the limit."""
        wanted = set(names)
        for name in wanted:
            with contextlib.suppress(xmlrpc.client.Fault):
                self._call("stopProcess", name, False)
        deadline = time.monotonic() + limit_seconds
        while time.monotonic() < deadline:
            if all(not state.pid for name, state in self.states().items() if name in wanted):
                return
            time.sleep(0.05)

    def shut_down(self, limit_seconds: float) -> bool:
        """Stop every part, then the supervisor; return whether it was gone within the limit."""
        pid = int(cast(int, self._call("getPID")))
        with contextlib.suppress(SupervisorFailed, xmlrpc.client.Fault):
            self._call("shutdown")
        deadline = time.monotonic() + limit_seconds
        while _lives(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _call(self, method: str, *arguments: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self._settings.supervisor_socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException) as error:
            raise SupervisorFailed(f"the supervisor does not answer ({error})") from None
        finally:
            transport.close()

    def _rendered(self, parts: list[Part]) -> str:
        run_dir = str(self._settings.run_dir).replace("%", "%%")
        lines = [
            "; written by make up",
            "[unix_http_server]",
            f"file={str(self._settings.supervisor_socket).replace('%', '%%')}",
            "chmod=0700",
            "[supervisord]",
            "nodaemon=true",
            "logfile=/dev/null",
            "logfile_maxbytes=0",
            f"pidfile={run_dir}/supervisord.pid",
            f"directory={run_dir}",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        ]
        for position, part in enumerate(parts):
            python = sys.executable.replace("%", "%%")
            keeper = str(KEEPER).replace("%", "%%")
            lines += [
                f"[program:{part.name}]",
                f'command="{python}" -I -S "{keeper}" "{run_dir}/parts/{part.name}.json"',
                # The highest priority starts last and stops first, so the part nearest to the client gets it.
                f"priority={900 - position}",
                "autorestart=true",
                "startsecs=2",
                "startretries=30",
                f"stopwaitsecs={part.stop_seconds:.0f}",
                "killasgroup=true",
                "stdout_logfile=NONE",
                "stderr_logfile=NONE",
            ]
        return "\n".join(lines) + "\n"

    def _spec(self, part: Part) -> str:
        return self._json(
            part.name,
            list(part.command),
            dict(part.env),
            part.stop_seconds,
            ends_with_parent=True,
            liveness=asdict(part.liveness) if part.liveness is not None else None,
        )

    def _supervisor_spec(self) -> str:
        command = [str(self._settings.platform_bin / "supervisord"), "-c", str(self._config)]
        return self._json("supervisor", command, {}, 60.0, ends_with_parent=False)

    def _json(
        self,
        name: str,
        command: list[str],
        env: dict[str, str],
        stop_seconds: float,
        *,
        ends_with_parent: bool,
        liveness: dict[str, object] | None = None,
    ) -> str:
        document = {
            "service": name,
            "command": command,
            "env": env,
            "cwd": str(self._settings.root),
            "log": str(self._settings.logs / f"{name}.jsonl"),
            "max_bytes": LOG_BYTES,
            "stop_seconds": stop_seconds,
            "ends_with_parent": ends_with_parent,
            "liveness": liveness,
            "supervisor_log": str(self._supervisor_log) if ends_with_parent else None,
        }
        return json.dumps(document, indent=2) + "\n"


def last_ending(settings: Settings, name: str) -> str:
    """Return how a part's process last ended, for a sentence: "exit status 1"."""
    return logged_ending(str(settings.logs / "supervisor.jsonl"), name) or "exit status unknown"


def is_listening(path: Path) -> bool:
    """Return whether a process accepts connections on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a part's log, each as time, level and event."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - (256 << 10)))
            lines = file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return ["(no log)"]
    return [readable(line) for line in lines] or ["(the log is empty)"]


def last_event(log: Path, event: str) -> dict[str, Any]:
    """Return the last log line with this event in the end of a part's log, {} if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - (1 << 20)))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        if event.encode() in line:
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict) and document.get("event") == event:
                    return document
    return {}


def readable(line: str) -> str:
    """Return one JSON log line as short text."""
    try:
        document = json.loads(line)
    except ValueError:
        return line
    if not isinstance(document, dict) or "event" not in document:
        return line
    more = {
        key: value
        for key, value in document.items()
        if key not in ("time", "level", "service", "event") and value not in (None, "", [], {})
    }
    rest = f"  {json.dumps(more, ensure_ascii=False)}" if more else ""
    stamp = str(document.get("time", ""))[11:23]
    return f"{stamp} {document.get('level', ''):7} {document['event']}{rest}"


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
