"""A session-wide stack stops after the last module that uses it, not at the end of the run."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
import contextlib
from pathlib import Path
import pytest
from harness.stacks.endings import until_last_user

pytest_plugins = ["harness.stacks.endings"]
EVENTS = Path(__file__).parent / "events"

def note(event):
    with EVENTS.open("a") as file:
        print(event, file=file)

@contextlib.contextmanager
def opened(name):
    note(f"{name} starts")
    yield name
    note(f"{name} ends")

@pytest.fixture(scope="session")
def first(request):
    with until_last_user(request, opened("first")) as value:
        yield value

@pytest.fixture(scope="session")
def sim_stack(request):
    with until_last_user(request, opened("sim")) as value:
        yield value

@pytest.fixture(params=["sim"])
def stack(request):
    return request.getfixturevalue(f"{request.param}_stack")

@pytest.fixture(scope="module")
def in_module(first):
    yield first
    note("module ends")

@pytest.fixture(autouse=True)
def noted(request):
    yield
    note(request.node.name)
"""
MODULES = {
    "test_a.py": "def test_a1(stack): assert stack == 'sim'\ndef test_a2(first): assert first == 'first'\n",
    "test_b.py": "def test_b1(in_module): pass\ndef test_b2(): assert False\n",
    "test_c.py": "def test_c1(): pass\n",
}


def test_a_stack_ends_with_the_last_module_that_uses_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(tmp_path)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 failed, 4 passed" in done.stdout, done.stdout
    assert (tmp_path / "events").read_text().splitlines() == [
        "sim starts", "test_a1[sim]", "first starts", "test_a2", "sim ends",
        "test_b1", "test_b2", "module ends", "first ends", "test_c1",
    ]  # fmt: skip
