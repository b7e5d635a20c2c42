"""The version of a configuration file, and keys under their former names. Must not know which keys a file has."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from platform_contracts.yaml_document import Document, Place, key_of

API_VERSION = "v1"
KEY = "api_version"
ANY = "*"
"""Stands for any name or index in a :class:`Renamed`."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A key with a new name: ``former`` is accepted with a warning until release ``removed_in``.

    Each ``*`` of ``now`` has the value of the ``*`` in ``former`` at the same position among the ``*``.
    """

    former: Place
    now: Place
    removed_in: str


def version_is_known(document: Document, reference: str) -> bool:
    """Return whether this release reads files of the document's ``api_version``; record a problem otherwise.

    A file without the key has the version :data:`API_VERSION`. ``reference`` is the page that lists the keys.
    """
    data = document.data
    if not isinstance(data, dict) or data.get(KEY, API_VERSION) == API_VERSION:
        return True
    document.problem(
        (KEY,),
        f'"{data[KEY]}" is not a version that this release reads (known: {API_VERSION}); write {KEY}: {API_VERSION} '
        f"with the keys of {reference}, or upgrade this program",
    )
    return False


def take_renamed(document: Document, renamed: Iterable[Renamed]) -> None:
    """Move values from former keys to their new places, and record a warning for each.

    Records a problem if a file has both keys.
    """
    for rename in renamed:
        for former, matched in list(_places(document.data, rename.former, (), ())):
            now = _filled(rename.now, matched)
            if _has(document.data, now):
                document.problem(former, f"is the former name of {key_of(now)}, which is set too; remove it")
                continue
            document.warning(
                former, f"is called {key_of(now)} now; rename it before release {rename.removed_in}"
            )
            _put(document.data, now, _at(document.data, former[:-1]).pop(former[-1]))
            _move_marks(document, former, now)


def _places(data: Any, pattern: Place, place: Place, matched: Place) -> Iterator[tuple[Place, Place]]:
    """Yield each place of the data that matches a pattern, and the parts that its ``*`` stand for."""
    if not pattern:
        yield place, matched
        return
    part, rest = pattern[0], pattern[1:]
    items: list[tuple[str | int, Any]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))
    for key, below in items:
        if part in (ANY, key):
            more = (*matched, key) if part == ANY else matched
            yield from _places(below, rest, (*place, key), more)


def _filled(pattern: Place, matched: Place) -> Place:
    parts = iter(matched)
    return tuple(next(parts) if part == ANY else part for part in pattern)


def _at(data: Any, place: Place) -> Any:
    for part in place:
        data = data[part]
    return data


def _has(data: Any, place: Place) -> bool:
    try:
        _at(data, place)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _put(data: Any, place: Place, value: Any) -> None:
    """Set a value, and create the mappings on its way. A text on its way stays: it is a mistake that the model reports."""
    for part in place[:-1]:
        if isinstance(data, dict) and data.get(part) is None:
            data[part] = {}
        if not _has(data, (part,)):
            return
        data = _at(data, (part,))
    if isinstance(data, dict):
        data[place[-1]] = value


def _move_marks(document: Document, former: Place, now: Place) -> None:
    """Keep the line and column of a moved value, for problems at its new place."""
    for place, mark in list(document.marks.items()):
        if place[: len(former)] == former:
            document.marks[(*now, *place[len(former) :])] = mark
