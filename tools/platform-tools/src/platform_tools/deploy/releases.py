"""The releases of an environment, their order and their values. Asks no cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class BadRequest(Exception):
    """The request cannot be fulfilled. The message names value and remedy."""


@dataclass(frozen=True)
class Release:
    """One `helm install`: ``values`` are files; later files override earlier ones.

    ``source`` are Helm's arguments for a chart of another project; without it, ``chart`` is a folder.
    """

    name: str
    chart: Path
    namespace: str
    values: tuple[Path, ...]
    source: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Return the arguments shared by every helm command for this release."""
        files = [word for file in self.values for word in ("-f", str(file))]
        chart = self.chart.name if self.source else str(self.chart)
        return [self.name, chart, *self.source, "--namespace", self.namespace, *files]


def namespaces_of(helm: Path, releases: list[Release]) -> list[dict[str, Any]]:
    """Return the manifests of the namespaces that releases use, with the labels of releases.yaml."""
    known = yaml.safe_load((helm / "releases.yaml").read_text())["namespaces"]
    used = {release.namespace for release in releases}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": facts["labels"]}}
        for name, facts in known.items()
        if name in used
    ]


@dataclass(frozen=True)
class ValuesOption:
    """A values file from the command line: for one ``release``, or for all (None)."""

    release: str | None
    file: Path

    def next_to(self, release: str) -> Path:
        """Return the file that scripts/cluster-up writes for one release: ``dev.RELEASE.values.yaml``."""
        return self.file.with_name(self.file.name.replace(".values.yaml", f".{release}.values.yaml"))


def releases_of(
    helm: Path, environment: str, more: Sequence[str | Path], parts: Mapping[str, Path] | None = None
) -> list[Release]:
    """Return the releases of an environment in the order of installation.

    ``parts``: use the community's telemetry charts, and these files for the releases that remain
    (`community_telemetry.parts`). ``more`` are values files: ``FILE`` for every release, ``RELEASE=FILE`` for one. Next
    to ``dev.values.yaml``, a file ``dev.RELEASE.values.yaml`` is added for that release. Files for one release override
    files for all.

    Raises:
        BadRequest: the environment or a release is unknown, or a values file is missing.
    """
    entries = environment_entries(helm, environment, "releases")
    given = values_options(helm, environment, more)
    if parts is None:
        return [_release(helm, environment, entry, given) for entry in entries]
    return [
        *(
            _community(helm, entry, given, parts[entry["name"]])
            for entry in environment_entries(helm, environment, "community")
        ),
        *(
            _release(helm, environment, entry, given, parts)
            for entry in entries
            if entry.get("telemetry") != "own"
        ),
    ]


def environment_entries(helm: Path, environment: str, section: str) -> list[dict[str, Any]]:
    """Return the entries of a section of releases.yaml that belong to an environment.

    Raises:
        BadRequest: the environment is unknown.
    """
    known = sorted(path.name for path in (helm / "environments").iterdir() if path.is_dir())
    if environment not in known:
        raise BadRequest(f'"{environment}" is no environment (known: {", ".join(known)})')
    document = yaml.safe_load((helm / "releases.yaml").read_text())
    return [one for one in document[section] if environment in one.get("environments", known)]


def values_options(helm: Path, environment: str, more: Sequence[str | Path]) -> list[ValuesOption]:
    """Return the values files of the command line.

    Raises:
        BadRequest: the environment or a release is unknown, or a file is missing.
    """
    known = [
        entry["name"]
        for section in ("releases", "upstream", "community")
        for entry in environment_entries(helm, environment, section)
    ]
    return [_values_option(str(word), known) for word in more]


def _community(helm: Path, entry: dict[str, Any], given: Sequence[ValuesOption], part: Path) -> Release:
    """Return a release of another project's chart. Values for every release are of our charts, so it gets none."""
    own = tuple(option.file for option in given if option.release == entry["name"])
    chart = helm / "community" / entry["chart"]
    source = ("--repo", entry["repository"], "--version", entry["version"])
    return Release(entry["name"], chart, entry["namespace"], (part, *own), source)


def _release(
    helm: Path,
    environment: str,
    entry: dict[str, Any],
    given: Sequence[ValuesOption],
    parts: Mapping[str, Path] | None = None,
) -> Release:
    name = entry["name"]
    own = helm / "environments" / environment / f"{name}.yaml"
    for_all = [option for option in given if option.release is None]
    files = [option.file for option in for_all]
    written = [option.next_to(name) for option in for_all]
    values = (
        *((own,) if own.exists() else ()),
        *((parts[name],) if parts and name in parts else ()),
        *files,
        *(file for file in written if file not in files and file.exists()),
        *(option.file for option in given if option.release == name),
    )
    return Release(name, helm / entry["chart"], entry["namespace"], values)


def _values_option(word: str, releases: list[str]) -> ValuesOption:
    release, equals, rest = word.partition("=")
    is_for_one = bool(equals) and "/" not in release and not Path(word).is_file()
    if is_for_one and release not in releases:
        raise BadRequest(
            f'-f {word}: "{release}" is no release of this environment (known: {", ".join(releases)})'
        )
    file = Path(rest if is_for_one else word)
    if not file.is_file():
        raise BadRequest(
            f"{file}: no such file (scripts/cluster-up writes .run/cluster/<environment>.values.yaml)"
        )
    return ValuesOption(release if is_for_one else None, file)
