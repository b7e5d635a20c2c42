"""Checkable claims of the README: every protection names an existing test, and every setting exists."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from edge_gateway.main import main
from edge_gateway.settings import Settings

SERVICE = Path(__file__).parents[1]
README = (SERVICE / "README.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| `(test_\w+\.py)::(test_\w+)` \|$", README, re.MULTILINE)


def test_the_table_of_protections_is_there() -> None:
    assert len(ROWS) >= 35


@pytest.mark.parametrize(("protection", "setting", "file", "name"), ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_protection_names_a_test_that_exists(protection: str, setting: str, file: str, name: str) -> None:
    assert f"def {name}(" in (SERVICE / "tests" / file).read_text()


def _fields(model: type[BaseModel], before: str = "") -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(before + name)
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for kind in inner:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                names |= _fields(kind, f"{before}{name}.")
    return names


@pytest.mark.parametrize("section", ["bounds", "timeouts", "budgets", "auth", "router"])
def test_a_setting_the_readme_names_exists(section: str) -> None:
    named = set(re.findall(rf"`({section}\.[a-z_.]+)`", README))
    assert named - _fields(Settings) == set()


def test_every_command_of_the_readme_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(re.findall(r"^\| `edge-gateway ([a-z-]+)", README, re.MULTILINE)):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert command in capsys.readouterr().out


def test_every_file_of_the_readme_exists() -> None:
    for path in re.findall(r"`((?:envoy|src|tests|bench)/[\w./-]+)`", README):
        assert (SERVICE / path).exists(), path
