"""Every file named in CONTRIBUTING.md and docs/README.md exists, and every page is listed."""

import re
from pathlib import Path

import pytest

from platform_tools.checkout import ROOT
from platform_tools.main import COMMANDS

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
TOUR = re.findall(r"^\| (.+\?) \| `([^`]+)`", CONTRIBUTING, re.MULTILINE)
MUST_BE_NAMED = {
    "Which file decides where a request goes?": "def decide(",
    "Which file ends a request?": "except RequestEnd",
    "Which file renders Envoy's configuration?": "def render(",
}


def test_the_tour_answers_a_newcomers_questions() -> None:
    assert len(TOUR) >= 15
    for question, text in MUST_BE_NAMED.items():
        assert text in (ROOT / dict(TOUR)[question]).read_text(), question


@pytest.mark.parametrize(("question", "path"), TOUR)
def test_every_place_of_the_tour_exists(question: str, path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/README.md", "services/README.md", "tests/README.md",
                                  "tools/README.md", "infrastructure/README.md", "docs/adr/README.md"])  # fmt: skip
def test_every_link_of_a_map_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert target.startswith("http") or (ROOT / page).parent.joinpath(target).exists(), (
            f"{page}: {target}"
        )


def test_every_page_of_the_documentation_is_listed() -> None:
    listed = (ROOT / "docs/README.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(page for page in pages if f"({page})" not in listed) == []


def test_every_folder_of_the_repository_has_a_readme() -> None:
    rooms = [*(ROOT / "services").iterdir(), *(ROOT / "tools").iterdir(), ROOT / "scripts", ROOT / "tests",
             ROOT / "infrastructure", ROOT / "load-testing", ROOT / "helm", ROOT / "docs"]  # fmt: skip
    missing = [room.name for room in rooms if room.is_dir() and not (room / "README.md").exists()]
    assert missing == []


@pytest.mark.parametrize("folder", ["services", "tools", "tests", "tests/harness"])
def test_a_map_lists_every_folder(folder: str) -> None:
    """tests/README.md also describes the harness."""
    page = (ROOT / folder.split("/")[0] / "README.md").read_text()
    rooms = [path for path in (ROOT / folder).iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert (
        sorted(path.name for path in rooms if not re.search(rf"[\[`/]{re.escape(path.name)}[\]/]", page))
        == []
    )


def test_every_command_has_a_launcher_of_the_one_form() -> None:
    launchers = {path.name for path in (ROOT / "scripts").iterdir() if path.suffix != ".md"}
    assert launchers == set(COMMANDS)
    for name in launchers:
        text = Path(ROOT / "scripts" / name).read_text()
        assert len(text.splitlines()) == len((ROOT / "scripts/deploy").read_text().splitlines()), name
        assert f'sys.exit(main("{name}", sys.argv[1:]))' in text


def test_decisions_have_one_running_number_one_form_and_an_index() -> None:
    pages = sorted(path for path in (ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    index = (ROOT / "docs/adr/README.md").read_text()
    for page in pages:
        text = page.read_text()
        assert text.startswith(f"# {page.name[:4]}: "), page.name
        assert "\n## Context\n" in text, page.name
        assert "\n## Decision\n" in text, page.name
        assert f"({page.name})" in index, page.name
