"""The chaos suite: one stack for all faults that heal, and the table at the end."""

from collections.abc import Iterator

import pytest

from harness.chaos.table import Row, as_markdown, keep
from harness.chaos.world import World, chaos_world
from harness.stacks.endings import until_last_user
from harness.stacks.local import ROOT

_rows: list[Row] = []


@pytest.fixture(scope="session")
def table() -> list[Row]:
    """The rows so far; a scenario adds its own."""
    return _rows


@pytest.fixture(scope="session")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The whole stack on simulators. Every scenario heals its fault before it ends."""
    with until_last_user(request, chaos_world(tmp_path_factory.mktemp("chaos"))) as running:
        yield running


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table and write it to a file."""
    if _rows:
        terminalreporter.section("faults under load")
        terminalreporter.write_line(as_markdown(_rows))
        terminalreporter.write_line(f"kept in {keep(_rows, ROOT / '.run' / 'chaos').relative_to(ROOT)}")
