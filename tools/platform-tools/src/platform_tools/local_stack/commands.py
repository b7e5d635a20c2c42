"""The commands `make up`, `down`, `status`, `logs` and `demo`, once the environments are installed."""

import json
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from platform_tools.local_stack.console import Console
from platform_tools.local_stack.credentials import write_credentials
from platform_tools.local_stack.parts import configured_parts
from platform_tools.local_stack.preparation import EXIT_BAD_INPUT, BadConfiguration, prepare
from platform_tools.local_stack.settings import Settings
from platform_tools.local_stack.stack import (
    StackFailed,
    bring_up,
    ports_in_use,
    resident_bytes,
    restart_engines,
    rows,
    take_down,
    undisturbed,
)
from platform_tools.local_stack.supervision import Supervisor, readable
from platform_tools.local_stack.tour import Tour, TourFailed

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def up(settings: Settings, *, seconds_before: float = 0.0) -> int:
    """Start or repair the stack, send one request, print all addresses."""
    console = Console()
    began = time.monotonic()
    was_alive = Supervisor(settings).is_alive()
    try:
        with console.step("configurations written and checked"):
            parts = prepare(settings)
        started = bring_up(settings, parts, console)
        ready_seconds = time.monotonic() - began
        if not started:
            console.line("  every part was ready already")
        Tour(settings, write_credentials(settings)["demo"], sys.stdout).short_prompt()
    except BadConfiguration as error:
        console.problem(str(error))
        return EXIT_BAD_INPUT
    except (StackFailed, TourFailed) as error:
        console.problem(f"\nmake up: {error}")
        if isinstance(error, TourFailed) and not was_alive:
            console.problem(
                "The stack keeps running; inspect it with: make status, make logs. Stop it with: make down"
            )
        return EXIT_FAILED
    except KeyboardInterrupt:
        console.problem("\ninterrupted")
        if not was_alive:
            with undisturbed():
                take_down(settings, configured_parts(settings))
            console.problem("everything that was started has been stopped")
        return EXIT_INTERRUPTED
    _summary(settings, console, seconds_before, ready_seconds, time.monotonic() - began)
    return 0


def _summary(
    settings: Settings, console: Console, before_seconds: float, ready_seconds: float, all_seconds: float
) -> None:
    console.line()
    console.line(f"The stack is up (PROFILE={settings.profile}).")
    console.line(
        f"  time           {before_seconds + all_seconds:.1f} s in all: installing and checks "
        f"{before_seconds:.1f} s, every part ready after {ready_seconds:.1f} s more, first request "
        f"{all_seconds - ready_seconds:.1f} s"
    )
    console.line(
        f"  memory         {resident_bytes(settings.run_dir) / (1 << 30):.2f} GiB, all processes together"
    )
    console.line(f"  clients use    {settings.url('EDGE_PORT', '/v1')}")
    console.line(f"  API key        in {_shown(settings, settings.client_env)}")
    console.line(f"  router         {settings.url('ROUTER_PORT')}  (/debug/decisions, /metrics)")
    console.line(f"  Prometheus     {settings.url('PROMETHEUS_PORT')}")
    console.line(f"  Alertmanager   {settings.url('ALERTMANAGER_PORT')}")
    console.line(f"  console        {settings.url('CONSOLE_PORT')}  (requests, causes, rules, changes)")
    console.line(f"  dashboards     {settings.url('PICTURES_PORT')}")
    console.line(f"  logs           {_shown(settings, settings.logs)}/<part>.jsonl")
    console.line()
    console.line("Try it:")
    console.line()
    console.line(f"  set -a; . {_shown(settings, settings.client_env)}; set +a")
    console.line(
        '  curl -sN "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" \\'
    )
    console.line("    -H 'Content-Type: application/json' \\")
    console.line(
        '    -d \'{"model": "smollm2-135m-instruct", "stream": true, "temperature": 0, '
        '"messages": [{"role": "user", "content": "What is the capital of France?"}]}\''
    )
    console.line()
    console.line("Next: make demo (the tour), make status, make logs, make test, make down")


def _shown(settings: Settings, path: Path) -> str:
    try:
        return str(path.relative_to(settings.root))
    except ValueError:
        return str(path)


def down(settings: Settings) -> int:
    """Stop the stack and verify that no process of it is left."""
    console = Console()
    parts = configured_parts(settings)
    ran = Supervisor(settings).is_alive()
    with console.step("stopping every part") if ran else console.step("looking for leftovers"):
        remains = take_down(settings, parts)
    for remain in remains:
        console.problem(f"still there: {remain}")
    if remains:
        return EXIT_FAILED
    foreign = ports_in_use(parts)
    console.line(
        "The stack is down: no process of it is left" + (", its ports are free." if not foreign else ".")
    )
    for text in foreign:
        console.line(f"  not of this stack: {text}")
    return 0


def status(settings: Settings) -> int:
    """Print a row for each part; exit 0 only when every part is ready."""
    table = rows(settings, configured_parts(settings))
    ready = sum(row.why is None for row in table)
    print(f"{'part':16} {'state':9} {'port':>5} {'pid':>8}  ready")
    for row in table:
        print(
            f"{row.part.name:16} {row.state:9} {row.part.port:5} {row.pid or '-':>8}  "
            f"{'yes' if row.why is None else f'no: {row.why}'}{f', {row.note}' if row.note else ''}"
        )
    print(f"\n{ready} of {len(table)} parts are ready (PROFILE={settings.profile}, {settings.run_dir})")
    return 0 if ready == len(table) else EXIT_FAILED


def restart(settings: Settings, names: Sequence[str]) -> int:
    """Restart all or the named engines one by one while the stack serves requests."""
    console = Console()
    if not Supervisor(settings).is_alive():
        console.problem("restart-engines: the stack does not run; start it with: make up")
        return EXIT_FAILED
    try:
        restart_engines(settings, configured_parts(settings), console, names)
    except StackFailed as error:
        console.problem(f"restart-engines: {error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        console.problem("\ninterrupted; the engine that was being drained takes requests again")
        return EXIT_INTERRUPTED
    return 0


def demo(settings: Settings) -> int:
    """Replay the tour on the running stack."""
    if not Supervisor(settings).is_alive():
        print("make demo: the stack does not run; start it with: make up", file=sys.stderr)
        return EXIT_FAILED
    try:
        Tour(settings, write_credentials(settings)["demo"], sys.stdout).everything()
    except TourFailed as error:
        print(f"\nmake demo: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def logs(settings: Settings, *, raw: bool, part: str | None) -> int:
    """Follow every part's log (or one part's) until Ctrl-C."""
    follower = Follower(settings.logs, part, raw=raw, out=sys.stdout)
    try:
        while True:
            follower.step()
            select.select([], [], [], 0.25)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class Follower:
    """Reads lines appended to the log files of a folder, across rotation."""

    def __init__(
        self, folder: Path, part: str | None, *, raw: bool, out: TextIO, shown_at_first: int = 5
    ) -> None:
        self._folder = folder
        self._pattern = f"{part or '*'}.jsonl"
        self._raw = raw
        self._out = out
        self._places: dict[Path, tuple[int, int]] = {}
        for path in sorted(folder.glob(self._pattern)):
            data = path.read_bytes()
            recent = data.splitlines()[-shown_at_first:] if shown_at_first else []
            self._print(path.stem, recent)
            self._places[path] = (path.stat().st_ino, len(data))

    def step(self) -> None:
        """Print the complete lines appended since the last step."""
        for path in sorted(self._folder.glob(self._pattern)):
            inode, place = self._places.get(path, (0, 0))
            now = path.stat()
            if now.st_ino != inode or now.st_size < place:
                place = 0
            with path.open("rb") as file:
                file.seek(place)
                block = file.read()
            complete = block[: block.rfind(b"\n") + 1]
            self._print(path.stem, complete.splitlines())
            self._places[path] = (now.st_ino, place + len(complete))

    def _print(self, part: str, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace")
            print(text if self._raw else f"{part:15} {readable(text)}", file=self._out, flush=True)


def as_json(settings: Settings) -> str:
    """Return the status as JSON, for programs."""
    table = rows(settings, configured_parts(settings))
    return json.dumps(
        [
            {
                "part": row.part.name,
                "state": row.state,
                "port": row.part.port,
                "pid": row.pid,
                "why": row.why,
                "note": row.note,
            }
            for row in table
        ]
    )
