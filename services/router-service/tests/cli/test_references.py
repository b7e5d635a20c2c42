"""The references in docs/ are what the types say, and name every key and condition."""

from pathlib import Path

import pytest

from router_service.cli.reference import configuration_reference, rules_reference
from router_service.routing.conditions import kinds

DOCS = Path(__file__).parents[4] / "docs"


@pytest.mark.parametrize(
    ("name", "text"),
    [("configuration.md", configuration_reference()), ("routing-rules.md", rules_reference())],
)
def test_a_reference_is_as_generated(name: str, text: str) -> None:
    assert (DOCS / name).read_text() == text, "run `make generate`"


def test_every_condition_is_in_the_rule_reference() -> None:
    text = rules_reference()
    assert all(f"| `{name}` |" in text for name in kinds())


def test_every_configuration_key_has_a_meaning() -> None:
    rows = [row for row in configuration_reference().splitlines() if row.startswith("| `")]
    assert len(rows) > 50
    assert all(row.split("|")[-2].strip() for row in rows)
