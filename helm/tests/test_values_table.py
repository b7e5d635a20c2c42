"""The table of helm/README.md that compares our values with those of well-known charts: every name in it exists.

The columns of other charts need UPSTREAM_CHARTS_DIR, as in test_upstream_charts.py, with podinfo and vllm-stack too.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, UMBRELLA, read

pytestmark = pytest.mark.programs

TABLE = re.search(r"\n\| value \| (.+?) \|\n\|[-|]+\|\n((?:\|.+\n)+)", (HELM / "README.md").read_text())
assert TABLE
COLUMNS = TABLE[1].split(" | ")
ROWS = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in TABLE[2].splitlines()]
OURS = COLUMNS.index("here") + 1
# Names that a chart reads from `global` or from the release, and lists no default for.
WITHOUT_DEFAULT = re.compile(r"global\.(registry|imageRegistry|imagePullSecrets|placement|listenAddress)$")


def names(cell: str) -> Iterator[str]:
    """Yield the values that a cell names, each with the prefix of the first one if it has a shorter form."""
    parent = ""
    for text in re.findall(r"`([^`]+)`", cell):
        name = text.partition(":")[0].replace("…", "")
        if name in CHARTS or name == UMBRELLA:
            continue
        if "." in name:
            parent = name.rpartition(".")[0]
            yield name
        else:
            yield f"{parent}.{name}" if parent else name


def found(values: Mapping[str, Any], name: str) -> bool:
    """Return whether a name is in the values, as written or at the top level."""
    for path in (name, name.rpartition(".")[2]):
        below: Any = values
        for key in path.split("."):
            if not isinstance(below, dict) or key not in below:
                break
            below = below[key]
        else:
            return True
    return False


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].replace("`", ""))
def test_every_value_of_ours_is_in_the_charts_that_the_row_names(row: list[str]) -> None:
    values = {chart: read(HELM / chart / "values.yaml") for chart in [*CHARTS, UMBRELLA]}
    some = "(edge)" in row[0] or "umbrella" in row[0] or "where a chart" in row[OURS]
    listed = list(names(row[OURS]))
    assert listed
    for name in listed:
        having = {chart for chart in values if found(values[chart], name)}
        if WITHOUT_DEFAULT.match(name):
            assert f"{name.partition('.')[2]}" in (HELM / "shared/_names.tpl").read_text(), name
            continue
        wanted = set() if some else set(CHARTS) - {"observability"}
        if name.startswith("serviceMonitor"):
            wanted.discard("console")
        assert having
        assert wanted <= having, f"{name} is missing in {sorted(wanted - having)}"


@pytest.mark.parametrize(
    ("column", "chart", "parts"),
    [
        ("kube-prometheus-stack", "kube-prometheus-stack", ("", "prometheus", "prometheus.prometheusSpec")),
        ("podinfo", "podinfo", ("",)),
    ],
)
def test_every_value_of_another_chart_is_in_it(column: str, chart: str, parts: tuple[str, ...]) -> None:
    folder = os.environ.get("UPSTREAM_CHARTS_DIR")
    if not folder or not (Path(folder) / chart).is_dir():
        pytest.skip(f"chart {chart}: not in UPSTREAM_CHARTS_DIR")
    values = yaml.safe_load((Path(folder) / chart / "values.yaml").read_text())
    templates = "\n".join(path.read_text() for path in (Path(folder) / chart / "templates").rglob("*.tpl"))
    missing = []
    for row in ROWS:
        for name in names(row[COLUMNS.index(column) + 1]):
            name = name.removeprefix(".").removeprefix("Spec.")
            known = any(found(values, f"{part}.{name}".strip(".")) for part in parts)
            if not known and f".Values.{name}" not in templates:
                missing.append(f"{row[0]}: {name}")
    assert missing == []
