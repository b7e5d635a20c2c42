"""A simulator that cannot listen says why and exits with 1."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.service
SIMULATOR = Path(__file__).parents[3] / ".venv" / "bin" / "engine-simulator"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 that another process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def ended(*words: str) -> tuple[int, str]:
    done = subprocess.run([SIMULATOR, *words], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--port", "{taken}"],
        ["serve", "--port", "0", "--control-port", "{taken}"],
        ["dcgm", "--engine", "http://127.0.0.1:1", "--port", "{taken}"],
    ],
    ids=["port", "control port", "dcgm"],
)
def test_a_taken_port_is_named_with_its_option(words: list[str], taken: int) -> None:
    code, error = ended(*(word.format(taken=taken) for word in words))
    assert code == 1
    assert error == (
        f"engine-simulator: {words[-2]} {taken}: cannot listen on 127.0.0.1:{taken}: Address already in use; "
        "choose another port, or stop the process that has it\n"
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--port", "99999"], "port must be 0-65535"),
        (
            ["--port", "0", "--host", "192.0.2.1"],
            "cannot listen on 192.0.2.1:0: Cannot assign requested address",
        ),
        (["--port", "0", "--host", "no-such.invalid"], "cannot listen on no-such.invalid:0: "),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(words: list[str], reason: str) -> None:
    code, error = ended("serve", *words)
    assert code == 1
    assert reason in error
    assert len(error.splitlines()) == 1
