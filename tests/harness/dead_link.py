"""A host that can vanish: a network namespace behind a veth pair whose link can be taken down. Needs root."""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

# The kernel removes a link some time after its namespace, so names are never reused.
_numbers = itertools.count(os.getpid() % 50_000)


@dataclass(frozen=True)
class FarHost:
    """A network namespace behind its own link."""

    namespace: str
    address: str
    link: str

    def cut(self) -> None:
        """Take the far end of the link down: packets vanish, and nothing is closed."""
        _ip("-n", self.namespace, "link", "set", "far0", "down")

    def carries(self) -> bool:
        """Return whether the link carries packets."""
        shown = subprocess.run(["ip", "link", "show", self.link], capture_output=True, text=True, check=True)
        return "LOWER_UP" in shown.stdout


@contextlib.contextmanager
def far_host() -> Iterator[FarHost]:
    """Make the namespace and its link; remove both at the end of the block."""
    number = next(_numbers)
    name, link = f"far-{number}", f"near{number}"
    near, far = f"10.219.{number % 250}.1", f"10.219.{number % 250}.2"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", link, "type", "veth", "peer", "name", "far0", "netns", name)
        _ip("addr", "add", f"{near}/30", "dev", link)
        _ip("link", "set", link, "up")
        _ip("-n", name, "addr", "add", f"{far}/30", "dev", "far0")
        _ip("-n", name, "link", "set", "far0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield FarHost(name, far, link)
    finally:
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
