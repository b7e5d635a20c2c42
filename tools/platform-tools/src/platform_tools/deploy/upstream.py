"""Upstream charts that the platform needs: their versions, and whether a cluster has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from platform_tools.deploy.needs import Needs
from platform_tools.deploy.releases import ValuesOption, environment_entries, values_options


class Objects(Protocol):
    """Lists objects of a cluster."""

    def get(self, *words: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class UpstreamChart:
    """One chart of another project; ``workload`` is ``RESOURCE/NAME``, ``values`` are files; later files
    override earlier ones.
    """

    name: str
    repository: str
    version: str
    namespace: str
    workload: str
    needed_for: str
    values: tuple[Path, ...]
    cluster_values: bool
    instead: str

    def words(self) -> list[str]:
        """Return the arguments of `helm upgrade --install` that name chart, version and values."""
        files = [word for file in self.values for word in ("-f", str(file))]
        return [
            self.name, self.name, "--repo", self.repository, "--version", self.version,
            "--namespace", self.namespace, *files,
        ]  # fmt: skip


def upstream_charts(helm: Path, environment: str, more: Sequence[str | Path]) -> list[UpstreamChart]:
    """Return the upstream charts of an environment in the order of installation.

    ``more`` are values files as for `releases_of`. A ``FILE`` for every release is not passed to upstream charts; next to
    ``dev.values.yaml``, a file ``dev.NAME.values.yaml`` is.

    Raises:
        BadRequest: the environment or a release is unknown, or a values file is missing.
    """
    entries = environment_entries(helm, environment, "upstream")
    given = values_options(helm, environment, more)
    return [_chart(helm, entry, given) for entry in entries]


def _chart(helm: Path, entry: dict[str, Any], given: list[ValuesOption]) -> UpstreamChart:
    name = entry["name"]
    for_all = [option for option in given if option.release is None]
    written = [option.next_to(name) for option in for_all if option.next_to(name) != option.file]
    own = [option.file for option in given if option.release == name]
    return UpstreamChart(
        name=name,
        repository=entry["repository"],
        version=entry["version"],
        namespace=entry["namespace"],
        workload=entry["workload"],
        needed_for=entry["needed_for"],
        values=(helm / "upstream" / f"{name}.yaml", *(file for file in written if file.exists()), *own),
        cluster_values=entry.get("cluster_values", False),
        instead=entry.get("instead", ""),
    )


def needed(charts: Iterable[UpstreamChart], needs: Needs) -> list[UpstreamChart]:
    """Return the charts that rendered manifests need."""
    return [chart for chart in charts if getattr(needs, chart.needed_for)]


def without_cluster_values(charts: Iterable[UpstreamChart]) -> list[str]:
    """Return one line for each chart that needs facts of the cluster and was given none."""
    return [
        f"{chart.name} has no values of this cluster: give -f .run/cluster/<environment>.values.yaml, next to which "
        f"scripts/cluster-up writes <environment>.{chart.name}.values.yaml, or -f {chart.name}=FILE"
        for chart in charts
        if chart.cluster_values and len(chart.values) == 1
    ]


def lacking_charts(cluster: Objects, charts: Iterable[UpstreamChart]) -> tuple[list[str], list[str]]:
    """Return the charts that are missing, not ready or of another version, one line each with its remedy."""
    missing: list[str] = []
    known: list[str] = []
    for chart in charts:
        resource, name = chart.workload.split("/")
        found = [
            item for item in cluster.get(resource, "-n", chart.namespace) if item["metadata"]["name"] == name
        ]
        if not found:
            missing.append(
                f"{chart.name} is not in {chart.namespace}: install it with --upstream"
                + (f", or {chart.instead}" if chart.instead else "")
            )
            continue
        status = found[0].get("status", {})
        wanted = status.get("desiredNumberScheduled", status.get("replicas", 0))
        if wanted and not status.get("numberAvailable", status.get("availableReplicas", 0)):
            missing.append(
                f"{chart.name} in {chart.namespace} has no ready pod of {wanted}: "
                f"kubectl -n {chart.namespace} describe {resource}/{name}"
            )
        runs = found[0]["metadata"].get("labels", {}).get("helm.sh/chart", "")
        if runs and runs != f"{chart.name}-{chart.version}":
            known.append(
                f"{chart.workload} in {chart.namespace} is of chart {runs}, not {chart.name}-{chart.version}"
            )
    return missing, known
