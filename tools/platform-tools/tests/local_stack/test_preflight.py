"""On a too small machine, the stack refuses to start with one sentence and the remedy."""

import errno
import os
import socket
from collections.abc import Callable

import pytest

from harness.ports import free_port
from platform_tools.local_stack import preflight
from platform_tools.local_stack.parts import Http, Part
from platform_tools.local_stack.settings import Settings

Make = Callable[..., Settings]


def part(port: int) -> Part:
    return Part("edge", (), {"EDGE_PORT": port}, Http(""))


def test_a_taken_port_names_the_process_and_the_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (problem,) = preflight.taken_ports([part(port)])
    assert f"port {port} (EDGE_PORT, for edge) is taken by process {os.getpid()} (" in problem
    assert "make up EDGE_PORT=" in problem


def test_a_listener_on_every_address_counts_too() -> None:
    with socket.create_server(("", 0)) as listener:
        assert preflight.taken_ports([part(listener.getsockname()[1])])


def test_an_outgoing_connection_on_a_port_is_named_as_such() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        port = connection.getsockname()[1]
        (problem,) = preflight.taken_ports([part(port)])
    assert f"is taken by an outgoing connection of process {os.getpid()} (" in problem


def test_root_is_not_sent_to_look_for_an_invisible_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_has_open", lambda process, inode: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert preflight.holder(port) == "a socket without a process here (of the kernel, or of a container)"
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert "another user" in preflight.holder(port)


def test_a_port_that_this_user_may_not_use_is_not_blamed_on_a_process() -> None:
    refusal = PermissionError(errno.EACCES, "Permission denied")
    assert preflight._why(80, refusal) == "cannot be used (Permission denied)"


def test_proposed_ports_are_free_distinct_and_outside_the_ephemeral_range() -> None:
    low, high = preflight.ephemeral_ports()
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    try:
        parts = [part(server.getsockname()[1]) for server in servers]
        problems = preflight.taken_ports(parts)
    finally:
        for server in servers:
            server.close()
    proposed = [int(problem.rpartition("=")[2]) for problem in problems]
    assert len(set(proposed)) == 3
    assert not {port for port in proposed if low <= port <= high}
    assert all(preflight.can_bind(port) for port in proposed)


def test_a_machine_that_hands_out_every_port_still_gets_a_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ephemeral_ports", lambda: (1024, 65535))
    assert preflight._free_near(8080, {18080}) > 18080


def test_a_free_port_is_no_problem() -> None:
    assert preflight.taken_ports([part(free_port())]) == []


def test_too_little_memory_names_the_smaller_profile(
    settings_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(preflight.MEMORY_BYTES, "vllm", 1 << 60)
    (problem,) = preflight.shortages(settings_of())
    assert "GiB of memory are available" in problem
    assert "make up PROFILE=sim" in problem


def test_too_little_disk_says_where(settings_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "DISK_BYTES", 1 << 60)
    monkeypatch.setitem(preflight.MEMORY_BYTES, "sim", 0)
    settings = settings_of(PROFILE="sim")
    (problem,) = preflight.shortages(settings)
    assert f"of disk are free where {settings.root} is" in problem
