"""Checks before a start: free ports, memory and disk space. Changes nothing."""

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Container, Iterable
from pathlib import Path

from platform_contracts.free_memory import available_bytes
from platform_tools.local_stack.parts import Part
from platform_tools.local_stack.settings import Profile, Settings

GIB = 1 << 30
LISTENING = "0A"  # the state's code in /proc/net/tcp
# Two engines with 1 GiB of KV cache each take about 8 GiB together with everything else (measured).
MEMORY_BYTES: dict[Profile, int] = {"vllm": 10 * GIB, "sim": GIB}
# Logs are bounded (two files of 32 MiB for each part), Prometheus keeps at most 1 GiB. The environments
# take about 2 GiB (platform, tests) and 6.5 GiB (vLLM with the default build of torch), the weights 0.6 GiB;
# pip's downloads take up to 2.7 GiB more while they are installed.
DISK_BYTES = 2 * GIB
INSTALLED_BYTES: dict[Profile, int] = {"vllm": 12 * GIB, "sim": 3 * GIB}


def taken_ports(parts: Iterable[Part]) -> list[str]:
    """Return one sentence for each port of ``parts`` that cannot be bound: its owner and a free port."""
    wanted = [(part.name, variable, port) for part in parts for variable, port in part.ports.items()]
    avoid = {port for _, _, port in wanted}
    problems = []
    for name, variable, port in wanted:
        if refusal := bind_refusal(port):
            other = _free_near(port, avoid)
            avoid.add(other)
            problems.append(
                f"port {port} ({variable}, for {name}) {_why(port, refusal)}; "
                f"free it or choose another port: make up {variable}={other}"
            )
    return problems


def can_bind(port: int) -> bool:
    """Return whether a part could listen on this port of 127.0.0.1."""
    return bind_refusal(port) is None


def bind_refusal(port: int) -> OSError | None:
    """Return the error of listening on this port of 127.0.0.1, None if it works."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def _why(port: int, refusal: OSError) -> str:
    if refusal.errno == errno.EADDRINUSE:
        return f"is taken by {holder(port)}"
    return f"cannot be used ({os.strerror(refusal.errno or 0)})"


def holder(port: int) -> str:
    """Return the owner of a port, if this user may see it; a listener is preferred to a connection."""
    sockets = sorted(_sockets_on(port), key=lambda one: one[0] != LISTENING)
    for state, inode in sockets:
        for process in Path("/proc").iterdir():
            if process.name.isdecimal() and _has_open(process, inode):
                what = "" if state == LISTENING else "an outgoing connection of "
                return f"{what}process {process.name} ({_command(process)})"
    if os.geteuid() != 0:
        return "a process of another user (as root its name can be seen)"
    if sockets:
        return "a socket without a process here (of the kernel, or of a container)"
    return "a socket outside this network namespace's tables"


def _sockets_on(port: int) -> list[tuple[str, str]]:
    """Return state and inode of each TCP socket whose local port this is; closed ones are left out."""
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == port and fields[9] != "0":
                    found.append((fields[3], fields[9]))
    return found


def _has_open(process: Path, inode: str) -> bool:
    try:
        return any(os.readlink(entry) == f"socket:[{inode}]" for entry in (process / "fd").iterdir())
    except OSError:
        return False


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return "it has ended"
    command = b" ".join(words).decode(errors="replace")
    return command if len(command) <= 120 else command[:117] + "..."


def _free_near(port: int, avoid: Container[int]) -> int:
    """Return a free port outside the kernel's ephemeral range, if there is one."""
    low, high = ephemeral_ports()
    above = [*range(port + 10000, 65536), *range(10000, min(port + 10000, 65536))]
    quiet = (one for one in above if not low <= one <= high)
    found: int = next(one for one in (*quiet, *above) if one not in avoid and can_bind(one))
    return found


def ephemeral_ports(file: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> tuple[int, int]:
    """Return the first and last port of the kernel's ephemeral range."""
    low, high = file.read_text().split()
    return int(low), int(high)


def shortages(settings: Settings) -> list[str]:
    """Return one sentence if memory is too small, and one if disk space is."""
    problems = []
    needed = MEMORY_BYTES[settings.profile]
    there = available_bytes()
    if there < needed:
        remedy = (
            "stop another program, or run the same stack on the engine simulator: make up PROFILE=sim"
            if settings.profile == "vllm"
            else "end something else"
        )
        problems.append(
            f"{there / GIB:.1f} GiB of memory are available and PROFILE={settings.profile} needs "
            f"{needed / GIB:.0f} GiB; {remedy}"
        )
    needed = DISK_BYTES + (0 if is_installed(settings) else INSTALLED_BYTES[settings.profile])
    free = shutil.disk_usage(settings.root).free
    if free < needed:
        problems.append(
            f"{free / GIB:.1f} GiB of disk are free where {settings.root} is and "
            f"{needed / GIB:.0f} GiB are needed; free space there"
        )
    return problems


def is_installed(settings: Settings) -> bool:
    """Return whether the environments of this profile exist (not whether they are current)."""
    environments = [".venv", ".venv-vllm"] if settings.profile == "vllm" else [".venv"]
    return all((settings.root / name / ".made-from").exists() for name in environments)
