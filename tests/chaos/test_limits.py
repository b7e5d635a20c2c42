"""The router's environment fails under load: clock, DNS, file descriptors, log disk."""

import contextlib
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from harness.chaos.faults import Proof
from harness.chaos.load import Ending
from harness.chaos.replicas import Router, more_edge, more_routers, only_child
from harness.chaos.scenario import Expected, Traffic, endure
from harness.chaos.table import Row
from harness.chaos.world import MODEL, POOL, World, eventually

pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(500)]

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
HOUR = 3600
SPARE_FILES = 12  # Idle use is below the alert's 90 %; a few more requests exhaust the limit.
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts of its own")
needs_faketime = pytest.mark.skipif(
    not FAKETIME.exists(), reason="libfaketime is not installed (Debian package faketime)"
)


@needs_faketime
def test_the_clock_of_a_router_jumps(world: World, table: list[Row], tmp_path: Path) -> None:
    """Move the clock an hour ahead, then back: no timeout, pin or breaker may depend on the wall clock."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    wrapper = (
        "env",
        f"LD_PRELOAD={FAKETIME}",
        f"FAKETIME_TIMESTAMP_FILE={offset}",
        "FAKETIME_NO_CACHE=1",
        "DONT_FAKE_MONOTONIC=1",  # A jump of the wall clock does not move the monotonic clock.
    )

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        seen = []
        for jump in (HOUR, -HOUR):
            offset.write_text(f"{jump:+d}")
            seen.append(eventually(lambda jump=jump: jumped(router, jump), f"its clock went {jump:+d} s", 20))
            time.sleep(4)
        yield Proof(f"times in its own log are {seen[0]:+.0f} s and {seen[1]:+.0f} s off the kernel's")
        offset.write_text("+0")

    with (
        more_routers(world, tmp_path, 1, wrapper=wrapper) as (router,),
        more_edge(world, tmp_path / "edge", router.port) as edge,
    ):
        name, alerts = "clock jumps by an hour, both ways", ["RouterClockWrong"]
        row, _ = endure(
            world, name, fault, Expected(alerts=alerts), Traffic(url=edge.url, routers=[router], sessions=50)
        )
    table.append(row)


def jumped(router: Router, by: int) -> float | None:
    """Return the router's clock offset in seconds, read from its last log line, once it is about ``by``."""
    last = json.loads(router.log_lines()[-1])["time"]
    text = last if isinstance(last, str) else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(last))
    off = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() - time.time()
    return off if abs(off - by) < 60 else None


@needs_root
def test_names_cannot_be_resolved(world: World, table: list[Row], tmp_path: Path) -> None:
    """A router that discovers engines by DNS keeps the known ones while DNS fails."""
    hosts, servers = tmp_path / "hosts", tmp_path / "resolv.conf"
    known = "127.0.0.1 localhost\n127.0.0.1 engines.chaos.internal\n"
    hosts.write_text(known)
    servers.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")  # nobody listens there
    mounts = f"mount --bind {hosts} /etc/hosts && mount --bind {servers} /etc/resolv.conf"
    wrapper = ("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh")
    port = int(world.stack.environment["ENGINE_A_PORT"])
    agent = int(world.stack.environment["AGENT_A_PORT"])
    pool = {
        "policy": "least_loaded",
        "models": [MODEL],
        "discover": {
            "dns": "engines.chaos.internal", "port": port, "health_port": agent, "health_path": "/readyz",
            "interval_seconds": 0.5,
        },
    }  # fmt: skip

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        lookup = [
            "nsenter",
            "--target",
            str(router.pid),
            "--mount",
            "getent",
            "hosts",
            "engines.chaos.internal",
        ]
        assert subprocess.run(lookup, capture_output=True, check=False).returncode == 0
        hosts.write_text("127.0.0.1 localhost\n")
        assert subprocess.run(lookup, capture_output=True, check=False).returncode == 2
        yield Proof("getent in the router's mount namespace no longer finds the name")
        assert "engines.chaos.internal" in router.log.read_text(), "the router logs it"
        hosts.write_text(known)

    with (
        more_routers(world, tmp_path, 1, wrapper=wrapper, wait_usable=1, pools={POOL: pool}) as (router,),
        more_edge(world, tmp_path / "edge", router.port) as edge,
    ):
        alerts = ["RouterCannotListBackends"]
        row, _ = endure(
            world,
            "DNS fails",
            fault,
            Expected(alerts=alerts),
            Traffic(url=edge.url, routers=[router]),
            at_least_seconds=8,
        )
    table.append(row)


def test_a_router_runs_out_of_file_descriptors(world: World, table: list[Row], tmp_path: Path) -> None:
    """It may refuse requests while it has none, must not crash, and recovers once it has some."""

    @contextlib.contextmanager
    def fault(_: World) -> Iterator[Proof]:
        pid = only_child(router.pid)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        limit = open_files(pid) + SPARE_FILES
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            with world.under_load(90, url=edge.url) as burst:
                eventually(
                    lambda: open_files(pid) >= limit, f"{limit} descriptors are open", 30, pause_seconds=0.01
                )
                yield (proof := Proof())
                proof.answers = burst.finish()
            kinds = sorted({f"{a.ending} {a.status}" for a in proof.answers})
            proof.text = (
                f"{limit} of {limit} descriptors open in /proc; a burst of {len(proof.answers)} ended {kinds}"
            )
            assert any(a.ending is Ending.REFUSED for a in proof.answers), (
                "some connections could not be accepted"
            )
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    with (
        more_routers(world, tmp_path, 1) as (router,),
        more_edge(world, tmp_path / "edge", router.port) as edge,
    ):
        pid = router.pid
        row, _ = endure(
            world,
            "a router without file descriptors",
            fault,
            Expected(
                alerts=["FileDescriptorsScarce"],
                allowed=[Ending.REFUSED, Ending.ERROR, Ending.BROKEN, Ending.ERROR_EVENT],
            ),
            Traffic(url=edge.url, routers=[router]),
        )
        assert router.pid == pid
        assert httpx.get(f"{router.url}/healthz").status_code == 200
    table.append(row)


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@needs_root
def test_the_disk_of_a_routers_log_is_full(world: World, table: list[Row], tmp_path: Path) -> None:
    """Log lines are dropped and counted; no request is lost."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "chaos", str(disk)], check=True)
    try:

        @contextlib.contextmanager
        def fault(_: World) -> Iterator[Proof]:
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * 4096)
            assert os.statvfs(disk).f_bavail == 0
            with pytest.raises(OSError, match="No space left"):
                (disk / "probe").write_bytes(b"x" * 8192)
            yield Proof("the kernel: no block of the 1 MB disk is free, a write of the test's own fails")
            filler.unlink()

        with (
            more_routers(world, tmp_path, 1, log=disk / "router.jsonl") as (router,),
            more_edge(world, tmp_path / "edge", router.port) as edge,
        ):
            row, _ = endure(
                world,
                "the log's disk is full",
                fault,
                Expected(alerts=["RouterLogLinesDropped"]),
                Traffic(url=edge.url),
            )
            lines = len(router.log_lines())
            with world.under_load(5, url=edge.url):
                eventually(lambda: len(router.log_lines()) > lines, "it writes again")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    table.append(row)
