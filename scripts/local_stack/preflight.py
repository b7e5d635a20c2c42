"""What would keep a stack from starting: taken ports, too little memory or disk. Changes nothing."""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

from local_stack.parts import Part
from local_stack.settings import Profile, Settings

GIB = 1 << 30
LISTENING = "0A"  # the state's code in /proc/net/tcp
# Two engines with 1 GiB of KV cache each take about 8 GiB together with everything else (measured).
MEMORY_BYTES: dict[Profile, int] = {"vllm": 10 * GIB, "sim": GIB}
# Logs are bounded (two files of 32 MiB for each part), Prometheus keeps at most 1 GiB. The environments
# take about 2 GiB (platform, tests) and 4 GiB (vLLM), the weights 0.6 GiB.
DISK_BYTES = 2 * GIB
INSTALLED_BYTES: dict[Profile, int] = {"vllm": 8 * GIB, "sim": 3 * GIB}


def taken_ports(parts: Iterable[Part]) -> list[str]:
    """Return one sentence for each port of ``parts`` that somebody else listens on."""
    return [
        f"port {port} ({variable}, for {part.name}) is taken by {listener(port)}; "
        f"end that process or choose another port: make up {variable}={_free_near(port)}"
        for part in parts
        for variable, port in part.ports.items()
        if not can_bind(port)
    ]


def can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def listener(port: int) -> str:
    """Return who listens on a port, as far as this user may see."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and _holds(process, inodes):
            words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            command = b" ".join(words).decode(errors="replace")
            short = command if len(command) <= 120 else command[:117] + "..."
            return f"process {process.name} ({short})"
    return "a process this user may not see"


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(entry) in inodes for entry in (process / "fd").iterdir())
    except OSError:
        return False


def _free_near(port: int) -> int:
    return next(
        candidate
        for candidate in range(port + 10000 if port < 50000 else 20000, 65000)
        if can_bind(candidate)
    )


def shortages(settings: Settings) -> list[str]:
    """Return one sentence for memory and one for disk where there is too little."""
    problems = []
    needed = MEMORY_BYTES[settings.profile]
    there = available_memory_bytes()
    if there < needed:
        remedy = (
            "end something else, or run the same stack on the engine simulator: make up PROFILE=sim"
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
            f"{needed / GIB:.0f} GiB are needed; make room there"
        )
    return problems


def is_installed(settings: Settings) -> bool:
    """Whether the environments of this profile exist (not whether they are current)."""
    environments = [".venv", ".venv-vllm"] if settings.profile == "vllm" else [".venv"]
    return all((settings.root / name / ".made-from").exists() for name in environments)


def available_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory a new process may take: of the machine, or of this container if that is less."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0]) * 1024
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return available
    if limit == "max":
        return available
    return min(available, int(limit) - used + int(statistics.get("inactive_file", 0)))
