"""Commands, ports, links and pictures in the documents of the root and docs/ are correct."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from platform_tools.local_stack.settings import DEFAULT_PORTS

ROOT = Path(__file__).resolve().parents[4]
DOCUMENTS = [ROOT / "README.md", ROOT / "helm" / "README.md",
             *(ROOT / "docs" / f"{name}.md" for name in ("architecture", "request-lifecycle", "deploying"))]  # fmt: skip
TARGETS = (
    "help up down status logs watch demo test test-cluster check bench load capacity generate images".split()
)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{name(document)}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    for target in re.findall(r"(?:`|^)make ([a-z]+)", document.read_text(), flags=re.MULTILINE):
        assert target in TARGETS, f"{name(document)}: make {target}"


def test_make_help_has_one_line_for_each_target_and_no_other() -> None:
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in shown.splitlines()]
    assert [words[1] for words in lines] == TARGETS
    assert all(len(words) == 3 for words in lines)


def test_the_table_of_ports_is_the_one_the_stack_uses() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\|[^|]*\|([\d, ]+)\|([^|]*)\|$", text, flags=re.MULTILINE)
    written = {
        variable: int(port)
        for ports, variables in rows
        for port, variable in zip(ports.split(","), re.findall(r"`(\w+)`", variables), strict=True)
    }
    assert written == dict(DEFAULT_PORTS)


def test_the_makefile_hands_on_every_variable_of_the_stack() -> None:
    exported = set(
        re.findall(r"\b[A-Z_]+\b", "\n".join(re.findall(r"^export (.*)$", makefile(), re.MULTILINE)))
    )
    assert set(DEFAULT_PORTS) <= exported


def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def test_every_picture_is_drawn_from_its_present_source() -> None:
    pictures = {path: path.read_bytes() for path in (ROOT / "docs" / "pictures").glob("*.svg")}
    sources = list((ROOT / "docs" / "pictures").glob("*.dot"))
    assert {path.stem for path in pictures} == {path.stem for path in sources}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/platform-tools/src/platform_tools/generators/10-pictures")],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Without graphviz on PATH it fails if a picture must be drawn.
    assert done.returncode == 0, "run make generate"
    assert {path: path.read_bytes() for path in pictures} == pictures
