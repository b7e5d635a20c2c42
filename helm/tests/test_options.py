"""Each option of each chart changes in the manifests exactly what helm/tests/options lists.

options/<chart>.yaml has, for each leaf of values.yaml, a value and the resulting changes, as lines:

    KIND/NAME path = value     a field that has this value now
    + KIND/NAME path           something that was not there
    - KIND/NAME path           something that is gone

`*` stands for anything. Elements of lists are identified by their name, else by their value:
args[--port=8000]. Options that many charts share are in common.yaml. A line without a change and a change
without a line both fail.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.kubernetes.chart_fields import CHARTS, HELM, merged, nested, read, render

pytestmark = pytest.mark.programs

FOLDER = Path(__file__).parent / "options"
COMMON: Mapping[str, Any] = read(FOLDER / "common.yaml")
TABLES: Mapping[str, Any] = {chart: read(FOLDER / f"{chart}.yaml") for chart in CHARTS}


def options_of(chart: str) -> list[str]:
    """Return the dotted path of every option; a mapping without named keys in the schema is one option."""
    schema = json.loads((HELM / chart / "values.schema.json").read_text())
    return list(_leaves(read(HELM / chart / "values.yaml"), schema, ""))


def _leaves(values: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(values, dict) and values and "properties" in schema:
        for key, below in values.items():
            yield from _leaves(below, schema["properties"][key], f"{path}.{key}" if path else key)
    else:
        yield path


@functools.cache
def rendered_base(chart: str, more: str) -> dict[str, Any]:
    return render(chart, merged(TABLES[chart].get("base", {}), json.loads(more)))


def case_of(chart: str, option: str) -> Mapping[str, Any] | None:
    found = TABLES[chart]["options"].get(option, COMMON.get(option))
    return dict(found) if found else None


def shown(path: str, before: Any, after: Any) -> str:
    """Return a change as a line of the table."""
    if after is MISSING:
        return f"- {path}"
    if before is MISSING and after is True:
        return f"+ {path}"
    return f"{path} = {after}"


MISSING = object()


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        shown(path, before.get(path, MISSING), after.get(path, MISSING))
        for path in [*before, *(path for path in after if path not in before)]
        if before.get(path, MISSING) != after.get(path, MISSING)
    ]


def is_foreseen(change: str, line: str) -> bool:
    if line.startswith("+ ") and not change.startswith(("+ ", "- ")):
        change = "+ " + change.rpartition(" = ")[0]
    return re.fullmatch(".*".join(map(re.escape, line.split("*"))), change, re.DOTALL) is not None


CASES = [(chart, option) for chart in CHARTS for option in options_of(chart)]


def without_digests(chart: str) -> dict[str, Any]:
    """Return values that remove the digests of versions.yaml; an image with a digest shows no tag."""
    found: dict[str, Any] = {}
    for option in options_of(chart):
        if option.endswith(".digest"):
            found = merged(found, nested(option, ""))
    return found


@pytest.mark.parametrize(("chart", "option"), CASES, ids=[f"{chart}-{option}" for chart, option in CASES])
def test_an_option_changes_what_is_said_of_it_and_nothing_else(chart: str, option: str) -> None:
    case = case_of(chart, option)
    assert case is not None, f"{option} of {chart} is not in helm/tests/options: say what it changes"
    base = without_digests(chart)
    for key, value in case.get("with", {}).items():
        base = merged(base, nested(key, value))
    before = rendered_base(chart, json.dumps(base))
    after = render(chart, merged(merged(TABLES[chart].get("base", {}), base), nested(option, case["set"])))
    found = changes(before, after)
    lines = case["changes"]
    unforeseen = [change for change in found if not any(is_foreseen(change, line) for line in lines)]
    absent = [line for line in lines if not any(is_foreseen(change, line) for change in found)]
    assert (unforeseen, absent) == ([], []), f"unforeseen {unforeseen}, absent {absent}"


@pytest.mark.parametrize("chart", CHARTS)
def test_the_table_has_no_option_that_the_chart_has_not(chart: str) -> None:
    assert TABLES[chart]["options"].keys() <= set(options_of(chart))


def test_every_shared_option_is_one_of_some_chart() -> None:
    assert COMMON.keys() <= {option for _, option in CASES}


def test_a_change_that_no_line_foresees_is_seen_and_so_is_a_line_without_a_change() -> None:
    before = rendered_base("llm-redis", "{}")
    after = render("llm-redis", merged(TABLES["llm-redis"]["base"], {"maxMemory": "1gb"}))
    found = changes(before, after)
    assert "+ ConfigMap/redis data.redis.conf[maxmemory 1gb]" in found
    assert not any(is_foreseen(change, "StatefulSet/redis spec.replicas = *") for change in found)
