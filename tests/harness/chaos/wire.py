"""A link between two network namespaces with adjustable delay and loss: `python -m harness.chaos.wire A B`.

Two TUN devices joined by this process, packet by packet. Replaces `tc netem` where the kernel lacks it.
Each line of standard input sets the treatment of TCP packets from or to some ports:
``{"ports": [8000], "delay_seconds": 0.1, "loss": 0.05}``; it answers each line with the number of packets
passed, delayed and dropped so far.
"""

import contextlib
import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.stacks.local import ROOT

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
HERE, THERE = "10.77.0.1", "10.77.0.2"


# --- the process of the link


def _tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


def _ports(packet: bytes) -> set[int]:
    """Return the TCP ports of an IPv4 packet, nothing for any other packet."""
    if packet[0] >> 4 != 4 or packet[9] != 6:
        return set()
    start = (packet[0] & 15) * 4
    return set(struct.unpack("!HH", packet[start : start + 4]))


def main() -> None:
    """Forward packets until standard input is closed."""
    a, b = (_tun(name) for name in sys.argv[1:3])
    other = {a: b, b: a}
    treat: dict[str, Any] = {"ports": [], "delay_seconds": 0.0, "loss": 0.0}
    counts = {"passed": 0, "delayed": 0, "dropped": 0}
    late: list[tuple[float, int, int, bytes]] = []
    draws, number = random.Random(1), 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        for source in select.select([a, b, 0], [], [], wait)[0]:
            if source == 0:
                line = sys.stdin.readline()
                if not line:
                    return
                treat = json.loads(line)
                print(json.dumps(counts), flush=True)
                continue
            packet = os.read(source, 65536)
            touched = bool(_ports(packet) & set(treat["ports"]))
            if touched and draws.random() < treat["loss"]:
                counts["dropped"] += 1
            elif touched and treat["delay_seconds"]:
                counts["delayed"] += 1
                number += 1
                heapq.heappush(
                    late, (time.monotonic() + treat["delay_seconds"], number, other[source], packet)
                )
            else:
                counts["passed"] += 1
                _write(other[source], packet)
        while late and late[0][0] <= time.monotonic():
            *_, target, packet = heapq.heappop(late)
            _write(target, packet)


def _write(target: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # the other end is not up yet: the packet is lost, as on a real link
        os.write(target, packet)


# --- the interface for tests


@dataclass
class Wire:
    """The link and the namespace at its other end."""

    process: "subprocess.Popen[str]"
    holder: int

    @property
    def inside(self) -> tuple[str, ...]:
        """Return the command prefix that runs a command at the other end."""
        return ("nsenter", "--target", str(self.holder), "--net")

    def treat(self, *ports: int, delay_seconds: float = 0.0, loss: float = 0.0) -> dict[str, int]:
        """Apply this delay and loss to packets of these ports; return the counts so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"ports": ports, "delay_seconds": delay_seconds, "loss": loss}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        counts: dict[str, int] = json.loads(self.process.stdout.readline())
        return counts

    def heal(self) -> dict[str, int]:
        """Remove delay and loss; return the counts so far."""
        return self.treat()

    @contextlib.contextmanager
    def ports_taken(self, *ports: int) -> Iterator[int]:
        """Use up the other end's local ports for connections to ``HERE`` at these ports; yield how many are
        used.

        The port range is reduced, and a process opens connections until the kernel has no free port.
        """
        setting = "/proc/sys/net/ipv4/ip_local_port_range"
        subprocess.run([*self.inside, "sh", "-c", f"echo 60000 60099 > {setting}"], check=True)
        hold = (
            "import errno, socket, sys\n"
            "held = []\n"
            f"for port in {ports}:\n"
            "    try:\n"
            "        while True:\n"
            f"            held.append(socket.create_connection(({HERE!r}, port), 10))\n"
            "    except OSError as error:\n"
            "        assert error.errno == errno.EADDRNOTAVAIL, error\n"
            "print(len(held), flush=True)\n"
            "sys.stdin.read()\n"
        )
        holder = subprocess.Popen(
            [*self.inside, sys.executable, "-c", hold],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None
            yield int(holder.stdout.readline())
        finally:
            holder.kill()
            holder.wait()
            subprocess.run([*self.inside, "sh", "-c", f"echo 32768 60999 > {setting}"], check=True)

    def retransmitted(self) -> int:
        """Return how many TCP segments the kernel at the other end has retransmitted."""
        text = subprocess.run(
            [*self.inside, "cat", "/proc/net/snmp"], capture_output=True, text=True, check=True
        ).stdout
        names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp:"))
        return int(values[names.index("RetransSegs")])


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """Move this thread and its child processes into a new network namespace until the block ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        if libc.setns(before, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(before)


@contextlib.contextmanager
def wire() -> Iterator[Wire]:
    """Connect this network namespace (see :func:`own_network`) to a new one.

    Services of this network that listen on 127.0.0.1 are reached from the other end at ``HERE``.
    """
    holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"])
    cable = subprocess.Popen(
        [sys.executable, "-m", "harness.chaos.wire", "wire-a", "wire-b"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "scripts")])},
    )
    try:
        assert cable.stdout is not None
        assert cable.stdout.readline() == "ready\n"
        mine = Path("/proc/thread-self/ns/net").readlink()
        while Path(f"/proc/{holder.pid}/ns/net").readlink() == mine:
            time.sleep(0.01)
        found = Wire(cable, holder.pid)
        Path("/proc/sys/net/ipv4/conf/wire-a/route_localnet").write_text("1")
        for command in (
            ["ip", "link", "set", "wire-b", "netns", str(holder.pid)],
            ["ip", "addr", "add", f"{HERE}/30", "dev", "wire-a"],
            ["ip", "link", "set", "wire-a", "up"],
            ["iptables", "-t", "nat", "-A", "PREROUTING", "-i", "wire-a", "-p", "tcp", "-j", "DNAT",
             "--to-destination", "127.0.0.1"],
            [*found.inside, "ip", "link", "set", "lo", "up"],
            [*found.inside, "ip", "addr", "add", f"{THERE}/30", "dev", "wire-b"],
            [*found.inside, "ip", "link", "set", "wire-b", "up"],
        ):  # fmt: skip
            subprocess.run(command, check=True)
        yield found
    finally:
        for process in (cable, holder):
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
