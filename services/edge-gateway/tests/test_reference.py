"""docs/edge-settings.md is what the types say, and every key has a meaning."""

from pathlib import Path

from edge_gateway.reference import settings_reference

PAGE = Path(__file__).parents[3] / "docs" / "edge-settings.md"


def test_the_page_is_what_the_types_say() -> None:
    assert PAGE.read_text() == settings_reference(), "run make generate"


def test_every_key_has_a_meaning() -> None:
    rows = [row for row in settings_reference().splitlines() if row.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.endswith("|  |")] == []
