"""The memory available to a new process: of the machine, or of this container if that is less. Linux only."""

from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def available_bytes(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """Return the free memory in bytes, by cgroup v2 or v1. Cached files count as free, because the kernel
    reclaims them.
    """
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    machine = int(fields["MemAvailable"].split()[0]) * 1024
    for folder, limit_file, used_file in (
        (cgroup, "memory.max", "memory.current"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit = (folder / limit_file).read_text().strip()
            used = int((folder / used_file).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue
        if limit == "max":
            return machine
        statistics = dict(line.split() for line in lines)
        cached = sum(int(statistics.get(kind, 0)) for kind in ("inactive_file", "active_file"))
        return min(machine, max(int(limit) - used + cached, 0))
    return machine
