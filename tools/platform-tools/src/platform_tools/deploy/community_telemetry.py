"""`--telemetry community`: the community's charts for metrics, logs and traces instead of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from platform_tools.deploy.releases import (
    BadRequest,
    Release,
    ValuesOption,
    environment_entries,
    values_options,
)

_FACTS = {
    "LOGS_BUCKET": ("buckets", "logs"),
    "TRACES_BUCKET": ("buckets", "traces"),
    "REGION": ("region",),
}
"""Words in the values of helm/community, and where a cluster's values have them under `global`."""


def parts(helm: Path, environment: str, more: Sequence[str | Path], folder: Path) -> dict[str, Path]:
    """Write values files to ``folder``, and return them by release: those of the community's charts with the buckets and
    the region of the values ``more``, and the parts of helm/community/platform.yaml for our releases.

    The keys of platform.yaml are releases, or charts if a part is for every release of a chart.

    Raises:
        BadRequest: the environment has only our own telemetry charts, or a chart needs a fact that no values file has.
    """
    community = environment_entries(helm, environment, "community")
    if not community:
        raise BadRequest(
            f"--telemetry community: {environment} has only our own telemetry charts; use dev or prod, or --telemetry own"
        )
    given = values_options(helm, environment, more)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for entry in community:
        files[entry["name"]] = folder / f"{entry['name']}.yaml"
        text = (helm / "community" / f"{entry['chart']}.yaml").read_text()
        files[entry["name"]].write_text(_with_facts(text, entry["name"], given))
    platform = yaml.safe_load((helm / "community" / "platform.yaml").read_text())
    for entry in environment_entries(helm, environment, "releases"):
        values = platform.get(entry["name"]) or platform.get(entry["chart"])
        if values and entry.get("telemetry") != "own":
            files[entry["name"]] = folder / f"{entry['name']}.yaml"
            files[entry["name"]].write_text(yaml.safe_dump(values))
    return files


def _with_facts(text: str, release: str, given: Sequence[ValuesOption]) -> str:
    """Return values with the cluster's facts. A fact that is missing may be in the release's own values file."""
    known: dict[str, Any] = {}
    for option in given:
        if option.release is None:
            known |= (yaml.safe_load(option.file.read_text()) or {}).get("global") or {}
    for word, path in _FACTS.items():
        found: Any = known
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if found:
            text = re.sub(rf"\b{word}\b", str(found), text)
        elif re.search(rf"\b{word}\b", text) and not any(option.release == release for option in given):
            raise BadRequest(
                f"--telemetry community: {release} needs global.{'.'.join(path)}: give "
                f"-f .run/cluster/<environment>.values.yaml, which scripts/cluster-up writes, or all of its values "
                f"with -f {release}=FILE"
            )
    return text


def namespaces(helm: Path) -> list[str]:
    """Return the namespaces of the telemetry releases of both kinds."""
    return sorted({one["namespace"] for one in _telemetry(helm)})


def in_the_way(helm: Path, listed: str, releases: Iterable[Release]) -> list[str]:
    """Return one line for each installed telemetry release that is not among ``releases``, with its remedy.

    ``listed`` is the JSON of `helm list`. Charts of both kinds share release names, and Helm cannot turn one
    chart's StatefulSet into another's.
    """
    telemetry = {(one["name"], one["namespace"], one["chart"]) for one in _telemetry(helm)}
    wanted = {(release.name, release.namespace): release.chart.name for release in releases}
    lines = []
    for found in json.loads(listed):
        key = (found["name"], found["namespace"])
        chart = _name_of(found["chart"])
        if (*key, chart) in telemetry and wanted.get(key) != chart:
            lines.append(
                f"{found['name']} in {found['namespace']} is of chart {found['chart']}, the other kind of telemetry: "
                f"remove it with helm uninstall {found['name']} -n {found['namespace']} (its volumes stay)"
            )
    return lines


def _telemetry(helm: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load((helm / "releases.yaml").read_text())
    own = [one for one in document["releases"] if one.get("telemetry") == "own"]
    return [*own, *document["community"]]


def _name_of(chart: str) -> str:
    """Return the name in ``NAME-VERSION``, as `helm list` shows charts; a version may have a hyphen too."""
    return re.sub(r"-v?\d+\.\d+\.\d+.*$", "", chart)


def community_releases(helm: Path, environment: str) -> list[Release]:
    """Return the community's releases of an environment, for their removal."""
    found = environment_entries(helm, environment, "community")
    return [Release(one["name"], helm / "community" / one["chart"], one["namespace"], ()) for one in found]
