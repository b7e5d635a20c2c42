"""A machine that cannot hold the stack is told so in one sentence with the remedy."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.ports import free_port
from local_stack import preflight
from local_stack.parts import Http, Part
from local_stack.settings import Settings

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


def test_a_containers_own_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 400\n")
    assert preflight.available_memory_bytes(tmp_path) == 900


def test_without_a_containers_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("inactive_file 400\n")
    assert preflight.available_memory_bytes(tmp_path) > 1 << 20
