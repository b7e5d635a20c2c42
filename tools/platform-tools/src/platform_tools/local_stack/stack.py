"""Starts, repairs, stops and checks the whole stack. parts.py defines its parts."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from platform_tools.local_stack.console import Console
from platform_tools.local_stack.leftovers import end_leftovers, find_leftovers
from platform_tools.local_stack.parts import Part, RouterUses
from platform_tools.local_stack.preflight import can_bind, holder, shortages, taken_ports
from platform_tools.local_stack.readiness import refuses_its_files, why_not_ready
from platform_tools.local_stack.settings import Profile, Settings, remembered_ports
from platform_tools.local_stack.supervision import (
    PartState,
    Supervisor,
    SupervisorFailed,
    last_ending,
    last_event,
    last_lines,
)

READY_SECONDS: dict[Profile, float] = {"vllm": 420.0, "sim": 90.0}
POLL_SECONDS = 0.15
SHOWN_LINES = 25
ENGINE_PORTS = ("ENGINE_A_PORT", "ENGINE_B_PORT")
DEAD = ("BACKOFF", "FATAL", "EXITED", "UNKNOWN", "STOPPED")


_DOWN = PartState("DOWN", 0, "")


class StackFailed(Exception):
    """The stack cannot start or did not become ready. The message gives the reason and the remedy."""


@dataclass(frozen=True)
class Row:
    """One part as `make status` shows it. ``why`` is None if it is ready; ``note`` is an optional remark."""

    part: Part
    state: str
    pid: int
    why: str | None
    note: str = ""


def check_before_start(settings: Settings, parts: list[Part]) -> None:
    """Check that the machine can run the stack.

    Raises:
        StackFailed: with one sentence for each reason.
    """
    problems = [*taken_ports(parts), *shortages(settings)]
    if problems:
        raise StackFailed("\n".join(problems))


def check_new_ports(settings: Settings, parts: list[Part]) -> None:
    """Refuse ports in use before stopping the running stack, which has other ports.

    Raises:
        StackFailed: with one sentence for each port.
    """
    own = set(remembered_ports(settings.run_dir).values())
    fresh = [
        replace(part, ports={name: port for name, port in part.ports.items() if port not in own})
        for part in parts
    ]
    if problems := taken_ports(fresh):
        raise StackFailed("\n".join([*problems, "The running stack was left as it is."]))


def bring_up(settings: Settings, parts: list[Part], console: Console) -> bool:
    """Start the stopped parts and wait until every part is ready; return whether any was started.

    Raises:
        StackFailed: a part died or was not ready in time. The parts that this call started have been stopped.
    """
    supervisor = Supervisor(settings)
    if supervisor.is_alive() and not supervisor.runs(parts):
        check_new_ports(settings, parts)
        with console.step("the running stack has other settings: stopping it"):
            take_down(settings, parts)
    fresh = not supervisor.is_alive()
    if fresh:
        if ended := end_leftovers(settings.run_dir):
            console.line(f"  repaired: {len(ended)} processes of a stack without supervisor ended")
        check_before_start(settings, parts)
    try:
        if fresh:
            settings.remember()
            supervisor.start(parts)
            restarted = [part.name for part in parts]
        else:
            states = supervisor.states()
            restarted = [part.name for part in parts if states[part.name].state in DEAD]
            for name in restarted:
                console.line(f"  repaired: {name} was {states[name].state}, starting it again")
                supervisor.start_part(name)
        _wait_until_ready(settings, supervisor, parts, console)
    except BaseException as error:
        if fresh:
            with undisturbed():
                take_down(settings, parts)
        if isinstance(error, SupervisorFailed):
            raise StackFailed(str(error)) from None
        raise
    return bool(restarted)


def _wait_until_ready(
    settings: Settings, supervisor: Supervisor, parts: list[Part], console: Console
) -> None:
    started = time.monotonic()
    pending = {part.name: part for part in parts}
    reasons: dict[str, str | None] = {}
    seen: dict[str, int] = {}
    with httpx.Client() as client, ThreadPoolExecutor(len(parts)) as pool, console.heartbeat():
        while pending:
            _fail_if_dead(settings, supervisor.states(), pending, seen)
            answers = pool.map(lambda part: why_not_ready(part.ready, client), pending.values())
            reasons = dict(zip(pending, answers, strict=True))
            elapsed = time.monotonic() - started
            for name, why in reasons.items():
                if why is None:
                    part = pending.pop(name)
                    console.done(f"{name} ready on 127.0.0.1:{part.port}", elapsed)
                else:
                    console.waiting(f"{name}: {why}", started)
            console.forget(name for name, why in reasons.items() if why is None)
            if elapsed > READY_SECONDS[settings.profile] and pending:
                raise StackFailed(_late(settings, {name: reasons[name] for name in pending}))
            time.sleep(POLL_SECONDS if pending else 0)


def _fail_if_dead(
    settings: Settings, states: Mapping[str, PartState], pending: Mapping[str, Part], seen: dict[str, int]
) -> None:
    """Raise if a part that must become ready has ended or was restarted."""
    for name in pending:
        state = states[name]
        died = state.state in DEAD or (state.pid and seen.get(name, state.pid) != state.pid)
        if died:
            said = "\n".join(
                f"    {line}" for line in last_lines(settings.logs / f"{name}.jsonl", SHOWN_LINES)
            )
            raise StackFailed(
                f"{name} ended while it was starting ({last_ending(settings, name)}). Its last log lines "
                f"({settings.logs / f'{name}.jsonl'}):\n{said}"
            )
        if state.pid:
            seen[name] = state.pid


def _late(settings: Settings, reasons: Mapping[str, str | None]) -> str:
    lines = [f"not ready after {READY_SECONDS[settings.profile]:.0f} s:"]
    for name, why in reasons.items():
        lines.append(f"  {name}: {why}; its log ends:")
        lines += [f"    {line}" for line in last_lines(settings.logs / f"{name}.jsonl", 8)]
    return "\n".join(lines)


def take_down(settings: Settings, parts: list[Part]) -> list[str]:
    """Stop the stack; return the processes and ports that remain (normally none).

    In-flight requests may finish: the edge is drained first, then parts stop from the client inwards.
    """
    supervisor = Supervisor(settings)
    if supervisor.is_alive():
        states = _states(supervisor)
        for stage in _stages(parts):
            for part in stage:
                if part.before_stop and states.get(part.name, _DOWN).state == "RUNNING":
                    _run_before_stop(part)
            with contextlib.suppress(SupervisorFailed):
                limit = max(part.stop_seconds for part in stage) + 5
                supervisor.stop_parts([part.name for part in stage], limit)
        with contextlib.suppress(SupervisorFailed):
            supervisor.shut_down(limit_seconds=15)
    end_leftovers(settings.run_dir)
    settings.supervisor_socket.unlink(missing_ok=True)
    for stale in ("supervisord.pid", "stack.json"):
        (settings.run_dir / stale).unlink(missing_ok=True)
    shutil.rmtree(settings.run_dir / "parts", ignore_errors=True)
    return [f"process {left.pid} ({left.command[:100]})" for left in find_leftovers(settings.run_dir)]


def restart_engines(
    settings: Settings, parts: list[Part], console: Console, names: Sequence[str] = ()
) -> None:
    """Restart engines without losing a request: stopped engines together, then running ones one by one.

    ``names`` restarts only these (``backend-a``). A running engine is drained first, and the next one waits until the
    router uses it again.

    Raises:
        StackFailed: one could not be drained, or was not ready in time; the others keep running.
    """
    supervisor = Supervisor(settings)
    by_name = {part.name: part for part in parts}
    engines = {f"backend-{letter}": f"agent-{letter}" for letter in ("a", "b")}
    if unknown := sorted(set(names) - engines.keys()):
        raise StackFailed(f"{', '.join(unknown)}: no such engine (known: {', '.join(engines)})")
    pairs = {name: (by_name[name], by_name[engines[name]]) for name in names or engines}
    states = supervisor.states()
    down = [name for name in pairs if states[name].state not in ("RUNNING", "STARTING")]
    if down:
        console.line(f"  {', '.join(down)}: not running, so nothing to drain; starting")
        together = [part for name in down for part in pairs[name]]
        supervisor.stop_parts(
            [part.name for part in together], max(part.stop_seconds for part in together) + 5
        )
        for part in together:
            supervisor.start_part(part.name)
        _wait_until_used(settings, supervisor, together, console)
    for engine, agent in (pair for name, pair in pairs.items() if name not in down):
        try:
            if states[agent.name].state == "RUNNING":
                with console.step(f"{engine.name} drained"):
                    _drain_engine(settings, engine, agent)
            else:
                console.line(f"  {agent.name} does not run: {engine.name} stops without being drained")
        finally:
            # A draining agent cannot be undrained, so it restarts too, even after an interruption; in a pod
            # it ends with its engine.
            with undisturbed():
                drained = sys.exc_info()[0] is None
                supervisor.stop_parts(
                    [agent.name, *([engine.name] if drained else [])], engine.stop_seconds + 5
                )
                for part in (agent, engine):
                    supervisor.start_part(part.name)
        _wait_until_used(settings, supervisor, [agent, engine], console)


def _wait_until_used(settings: Settings, supervisor: Supervisor, parts: list[Part], console: Console) -> None:
    """Wait until engines and agents are ready, then until a running router uses these engines."""
    _wait_until_ready(settings, supervisor, parts, console)
    if supervisor.states()["router"].state != "RUNNING":
        return
    urls = [settings.url(variable) for part in parts for variable in part.ports if variable in ENGINE_PORTS]
    used = RouterUses(settings.url("ROUTER_PORT", "/debug/backends"), tuple(urls))
    router = Part("router", (), {"ROUTER_PORT": settings.port("ROUTER_PORT")}, used)
    _wait_until_ready(settings, supervisor, [router], console)


def _drain_engine(settings: Settings, engine: Part, agent: Part) -> None:
    command = [
        str(settings.platform_bin / "backend-agent"),
        "drain",
        *("--url", f"http://127.0.0.1:{agent.port}"),
        *("--settle-seconds", "3", "--limit-seconds", "600"),
    ]
    drained = subprocess.run(command, capture_output=True, text=True, check=False)
    if drained.returncode:
        raise StackFailed(f"{engine.name}: {drained.stdout.strip()}{drained.stderr.strip()}")


def _run_before_stop(part: Part) -> None:
    # In a new session, so that a second Ctrl-C does not reach it.
    subprocess.run(
        part.before_stop, stdin=subprocess.DEVNULL, capture_output=True, check=False, start_new_session=True
    )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Block signals during the block: an interrupted stop would leave processes behind."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _stages(parts: list[Part]) -> list[list[Part]]:
    """Return the groups of parts that stop together: the edge, then the router, then all others."""
    first = [[part for part in parts if part.name == name] for name in ("edge", "router")]
    others = [part for part in parts if part.name not in ("edge", "router")]
    return [stage for stage in (*first, others) if stage]


def ports_in_use(parts: list[Part]) -> list[str]:
    """Return the parts' ports in use, and by which process."""
    return [
        f"port {port} ({variable}): {holder(port)}"
        for part in parts
        for variable, port in part.ports.items()
        if not can_bind(port)
    ]


def rows(settings: Settings, parts: list[Part]) -> list[Row]:
    """Return the state of every part; ``DOWN`` where no supervisor runs."""
    supervisor = Supervisor(settings)
    states = _states(supervisor) if supervisor.is_alive() else {}
    with httpx.Client() as client, ThreadPoolExecutor(len(parts)) as pool:
        reasons = list(pool.map(lambda part: why_not_ready(part.ready, client), parts))
        refused = refuses_its_files(settings.url("ROUTER_PORT", "/metrics"), client)
    table = []
    for part, why in zip(parts, reasons, strict=True):
        state = states.get(part.name, _DOWN)
        if state.state == "DOWN":
            why = "the stack does not run" if why else f"not of this stack: {holder(part.port)}"
        elif state.state not in ("RUNNING", "STARTING"):
            said = last_lines(settings.logs / f"{part.name}.jsonl", 2)[
                0
            ]  # the last line comes from its keeper
            why = f"{state.said or state.state}, {last_ending(settings, part.name)}; {said}"
        note = _refusal(settings) if refused and part.name == "router" and why is None else ""
        table.append(Row(part, state.state, state.pid, why, note))
    return table


def _refusal(settings: Settings) -> str:
    problems = last_event(settings.logs / "router.jsonl", "config_refused").get("problems")
    first = problems[0] if isinstance(problems, list) and problems else "see its log, event config_refused"
    return f"on its previous configuration, because it refuses its files: {first}"


def _states(supervisor: Supervisor) -> dict[str, PartState]:
    try:
        return supervisor.states()
    except SupervisorFailed:
        return {}


def resident_bytes(run_dir: Path) -> int:
    """Return the memory of all processes of the stack (proportional set size, so shared memory counts once)."""
    total = 0
    for process in find_leftovers(run_dir):
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total
