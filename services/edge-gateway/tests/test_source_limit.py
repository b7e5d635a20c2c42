"""The firewall rules of docs/security.md: one source address cannot keep the connections of all others."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.servers.edges import Edge, running_edge
from harness.servers.recording_upstream import recording_upstream
from harness.waiting import eventually
from podrunner import kernel

pytestmark = [pytest.mark.service, pytest.mark.untimed]

ATTACKER, OTHER = "127.0.0.2", "127.0.0.3"
ALL, MOST = 60, 20
"""Connections that the edge accepts, and those that the rules leave to one source."""

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


def documented_rules() -> list[str]:
    rules = re.findall(r"^\s*(ip6?tables -A INPUT .*)$", SECURITY.read_text(), re.MULTILINE)
    assert [rule.split()[0] for rule in rules] == ["iptables", "ip6tables"]
    return rules


@pytest.fixture
def network() -> Iterator[kernel.Holder]:
    """A network namespace: only there the rules apply."""
    kernel.require()
    holder = kernel.Holder()
    holder.run("ip", "link", "set", "lo", "up")
    yield holder
    holder.close()


def serves(edge: Edge, source: str) -> bool:
    """Return whether the edge answers a health check on a new connection from ``source``."""
    try:
        with socket.create_connection(("127.0.0.1", edge.port), 3, source_address=(source, 0)) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
            return client.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False


@contextlib.contextmanager
def silent_connections(edge: Edge, count: int) -> Iterator[int]:
    """Open silent connections from the attacker's address; yields how many were not refused."""
    with contextlib.ExitStack() as opened:
        held = 0
        for _ in range(count):
            with contextlib.suppress(ConnectionRefusedError):
                source = (ATTACKER, 0)
                client = socket.create_connection(("127.0.0.1", edge.port), 3, source_address=source)
                opened.enter_context(client)
                held += 1
        yield held


@pytest.mark.parametrize("limited", [True, False])
def test_the_documented_rules_leave_connections_to_other_sources(
    tmp_path: Path, network: kernel.Holder, limited: bool
) -> None:
    def work() -> None:
        settings = {"bounds": {"max_connections": ALL}, "timeouts": {"request_headers_seconds": 60}}
        with recording_upstream() as upstream, running_edge(tmp_path, upstream.port, settings) as edge:
            for rule in documented_rules() if limited else []:
                rule = rule.replace("8080", str(edge.port)).replace("above 500", f"above {MOST}")
                subprocess.run(rule.split(), check=True)
            with silent_connections(edge, 3 * ALL) as held:
                if limited:
                    assert held == MOST
                    assert all(serves(edge, OTHER) for _ in range(10))
                    assert not serves(edge, ATTACKER)
                else:
                    assert held > ALL, "the kernel accepts them, and the edge closes those above its bound"
                    assert not serves(edge, OTHER), "the attack works without the rules"
            eventually(lambda: serves(edge, ATTACKER), "connections that have ended count no longer")

    network.call(work)
