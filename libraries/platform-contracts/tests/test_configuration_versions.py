"""Versions of configuration files, and keys under their former names."""

from pathlib import Path

import pytest

from platform_contracts.configuration_versions import Renamed, take_renamed, version_is_known
from platform_contracts.yaml_document import Document, Place, read


def document(tmp_path: Path, text: str) -> Document:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize("text", ["", "other: 1\n", "api_version: v1\n", "[]\n"])
def test_a_known_version_or_none_is_accepted(tmp_path: Path, text: str) -> None:
    file = document(tmp_path, text)
    assert version_is_known(file, "docs/page.md")
    assert file.problems == []


@pytest.mark.parametrize(
    ("value", "shown"), [("v2", "v2"), ("1", "1"), ("v1alpha1", "v1alpha1"), ("", "None"), ("[v1]", "['v1']")]
)
def test_an_unknown_version_is_refused_with_its_line_and_the_remedy(
    tmp_path: Path, value: str, shown: str
) -> None:
    file = document(tmp_path, f"other: 1\napi_version: {value}\n")
    assert not version_is_known(file, "docs/page.md")
    (problem,) = map(str, file.problems)
    assert problem.startswith(f"{file.path}:2:")
    assert problem.endswith(
        f'api_version: "{shown}" is not a version that this release reads (known: v1); write api_version: v1 with the '
        "keys of docs/page.md, or upgrade this program"
    )


@pytest.mark.parametrize(
    ("former", "now", "text", "data", "warning"),
    [
        (("a", "old"), ("a", "new"), "a: {old: 1, x: 2}\n", {"a": {"x": 2, "new": 1}}, "1:10: a.old: is called a.new now"),
        (("old",), ("a", "new"), "\nold: 1\n", {"a": {"new": 1}}, "2:6: old: is called a.new now"),
        (("old",), ("a", "new"), "a: {b: 2}\nold: 1\n", {"a": {"b": 2, "new": 1}}, "2:6: old: is called a.new now"),
        (
            ("pools", "*", "old"), ("pools", "*", "deep", "new"),
            "pools:\n  one: {}\n  two: {old: [1]}\n", {"pools": {"one": {}, "two": {"deep": {"new": [1]}}}},
            "3:14: pools.two.old: is called pools.two.deep.new now",
        ),
        (
            ("old",), ("a", "b", "new"), "a: text\nold: 1\n", {"a": "text"}, "2:6: old: is called a.b.new now",
        ),
        (
            ("rules", "*", "old"), ("rules", "*", "new"), "rules: [{n: 1}, {old: 2}]\n",
            {"rules": [{"n": 1}, {"new": 2}]}, "1:23: rules[1].old: is called rules[1].new now",
        ),
    ],
    ids=["sibling", "new section", "existing section", "any name", "text on the way", "any index"],
)  # fmt: skip
def test_a_former_key_keeps_its_value_with_one_warning(
    tmp_path: Path, former: Place, now: Place, text: str, data: object, warning: str
) -> None:
    file = document(tmp_path, text)
    take_renamed(file, [Renamed(former, now, "0.3.0")])
    assert file.data == data
    assert file.problems == []
    assert [str(one) for one in file.warnings] == [f"{file.path}:{warning}; rename it before release 0.3.0"]


def test_a_mistake_in_a_moved_value_has_the_line_of_the_former_key(tmp_path: Path) -> None:
    file = document(tmp_path, "a: {}\nold: {b: [1, 2]}\n")
    take_renamed(file, [Renamed(("old",), ("a", "new"), "0.3.0")])
    file.problem(("a", "new", "b", 1), "is wrong")
    assert [str(one) for one in file.problems] == [f"{file.path}:2:14: a.new.b[1]: is wrong"]


def test_both_names_of_a_key_are_refused(tmp_path: Path) -> None:
    file = document(tmp_path, "new: 1\nold: 2\n")
    take_renamed(file, [Renamed(("old",), ("new",), "0.3.0")])
    assert [str(one) for one in file.problems] == [
        f"{file.path}:2:6: old: is the former name of new, which is set too; remove it"
    ]
    assert file.warnings == []


def test_a_text_in_place_of_the_new_section_stays_for_the_model_to_report(tmp_path: Path) -> None:
    file = document(tmp_path, "a: text\nold: 2\n")
    take_renamed(file, [Renamed(("old",), ("a", "new"), "0.3.0")])
    assert file.data == {"a": "text"}


@pytest.mark.parametrize("text", ["", "a: 1\n", "[1, 2]\n", "a: {}\n", "a: text\n"])
def test_a_file_without_former_keys_is_unchanged(tmp_path: Path, text: str) -> None:
    file = document(tmp_path, text)
    before = read(file.path).data
    take_renamed(file, [Renamed(("a", "old"), ("a", "new"), "0.3.0")])
    assert (file.data, file.warnings, file.problems) == (before, [], [])
