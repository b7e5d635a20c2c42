"""Kernel namespaces, kept by a process that ends with the test, so no cleanup is needed."""

import ctypes
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
LEASH = ("setpriv", "--pdeathsig", "KILL")
TOOLS = ("setpriv", "unshare", "nsenter", "ip", "iptables-restore")
T = TypeVar("T")


class CannotIsolate(AssertionError):
    """This machine or user cannot create namespaces. The message names the remedy."""


def require() -> None:
    """Check that pods can run here.

    Raises:
        CannotIsolate: not root, a tool is missing, or the kernel refuses.
    """
    if os.geteuid() != 0:
        raise CannotIsolate("pods need separate namespaces and users: run the tests as root")
    if missing := [name for name in TOOLS if not shutil.which(name)]:
        raise CannotIsolate(
            f"{', '.join(missing)} not found: python3 scripts/install-dependencies packages:test (apt: "
            "util-linux iproute2 iptables)"
        )
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    if tried.returncode:
        raise CannotIsolate(
            f"the kernel creates no namespaces here ({tried.stderr.strip()}): run the tests on a machine, or in a "
            "container with CAP_SYS_ADMIN, where `unshare --net --mount --pid true` works"
        )


def children(pid: int) -> list[int]:
    """Return the process ids of the children of ``pid``."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Holder:
    """An idle process in a new network namespace and optionally in a new process namespace."""

    def __init__(self, *, processes: bool = False) -> None:
        words = ["--pid"] if processes else []
        self._process = spawn(["unshare", "--net", *words, "--fork", "--kill-child", "sleep", "infinity"])
        self.pid = self._wait()

    def _wait(self) -> int:
        while True:
            found = children(self._process.pid)
            # The child may not be `sleep` yet, but its namespaces exist from its start.
            if found:
                return found[0]
            if self._process.poll() is not None:
                raise CannotIsolate("unshare ended at once")
            time.sleep(0.005)

    @property
    def network(self) -> str:
        """Return the namespace's file, for nsenter and setns."""
        return f"/proc/{self.pid}/ns/net"

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a tool of the machine inside the network namespace and return its output."""
        done = subprocess.run(
            ["nsenter", f"--net={self.network}", *command],
            input=text, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}\n{text or ''}")
        return done.stdout

    def call(self, function: Callable[[], T]) -> T:
        """Call ``function`` in a thread whose sockets belong to this namespace."""
        result: list[T] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with inside(self.network):
                    result.append(function())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return result[0]

    def close(self) -> None:
        """End the process; the kernel then removes the namespaces with their devices and rules."""
        self._process.kill()
        self._process.wait()


@contextmanager
def inside(network: str) -> Iterator[None]:
    """Open this thread's sockets in another network namespace until the block ends."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(network)
        yield
    finally:
        _LIBC.setns(own, _CLONE_NEWNET)
        os.close(own)


def enter(network: str) -> None:
    """Move this thread into a network namespace, for good."""
    _enter(network)


def _enter(network: str) -> None:
    handle = os.open(network, os.O_RDONLY)
    try:
        if _LIBC.setns(handle, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"setns {network}: {os.strerror(number)}")
    finally:
        os.close(handle)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process in a new session; it is killed when the starting thread ends."""
    return subprocess.Popen([*LEASH, *command], stdin=subprocess.DEVNULL, start_new_session=True, **options)
