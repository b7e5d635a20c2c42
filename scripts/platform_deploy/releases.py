"""Which releases an environment has, in which order, with which values. Asks no cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml


class BadRequest(Exception):
    """What was asked for cannot be done. The message names value and remedy."""


@dataclass(frozen=True)
class Release:
    """One `helm install`: ``values`` are files, later ones win."""

    name: str
    chart: Path
    namespace: str
    values: tuple[Path, ...]

    def words(self) -> list[str]:
        """Return what every helm command about it has in common."""
        files = [word for file in self.values for word in ("-f", str(file))]
        return [self.name, str(self.chart), "--namespace", self.namespace, *files]


def releases_of(helm: Path, environment: str, more: list[Path]) -> list[Release]:
    """Return the releases of an environment in the order of installation.

    Raises:
        BadRequest: there is no such environment, or a values file is missing.
    """
    known = sorted(path.name for path in (helm / "environments").iterdir() if path.is_dir())
    if environment not in known:
        raise BadRequest(f'"{environment}" is no environment (known: {", ".join(known)})')
    for file in more:
        if not file.is_file():
            raise BadRequest(
                f"{file}: no such file (scripts/cluster-up writes .run/cluster/<environment>.values.yaml)"
            )
    document = yaml.safe_load((helm / "releases.yaml").read_text())
    found = []
    for entry in document["releases"]:
        if environment in entry.get("environments", known):
            own = helm / "environments" / environment / f"{entry['name']}.yaml"
            values = (*((own,) if own.exists() else ()), *more)
            found.append(Release(entry["name"], helm / entry["chart"], entry["namespace"], values))
    return found
