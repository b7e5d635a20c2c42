"""Checks in a browser that pages of the console name a fault, at every width and scheme, and keeps the times.

A page is read as text first, so that a browser opens only once the fault is named. ``FULL=1`` opens browsers.
`PYTHONPATH=tests python -m harness.named_pages` prints the kept times as a table.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from harness.browser import SCHEMES, WIDTHS, Opened, opened
from harness.npm import ROOT

NAMED_SECONDS = 60.0
"""A page names a fault within this time of its start."""

VIEWS = len(WIDTHS) * len(SCHEMES)
KEPT = ROOT / ".run" / "console"
PICTURES = os.environ.get("CONSOLE_PICTURES")
"""A folder below the checkout for pictures, such as docs/pictures/console/faults."""

KEPT_VIEWS = ("dark-390", "light-1400")
"""Views whose pictures are kept: one of each width and scheme. All views are checked."""

COLOURS = 24


@dataclass(frozen=True)
class Page:
    """A page's path, and the words that it must contain."""

    path: str
    words: Sequence[str]

    def missing(self, text: str) -> list[str]:
        """Return the words that ``text`` does not contain."""
        joined = " ".join(text.split())
        return [word for word in self.words if word not in joined]


@dataclass(frozen=True)
class Named:
    """A fault, the words that named it, and when: ``seconds`` after its start as text, ``shown`` in every view."""

    fault: str
    words: Sequence[str]
    seconds: float
    shown: float


def opens_browsers() -> bool:
    return os.environ.get("FULL") == "1"


def show_everywhere(url: str, fault: str, pages: Mapping[str, Page], began: float, seconds: float) -> Named:
    """Open ``pages`` (name to page) in every width and scheme, and keep the result in :data:`KEPT`.

    ``began`` is the fault's start on the monotonic clock; ``seconds`` later the pages named it as text.

    Raises:
        AssertionError: a view does not name the fault, has an error or an accessibility problem, or is too late.
    """
    paths = {f"{slug(fault)}-{name}".removesuffix("-now"): page for name, page in pages.items()}
    start = time.time() - (time.monotonic() - began)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder)
        found = opened(
            url,
            {name: page.path for name, page in paths.items()},
            pictures=pictures,
            words={name: page.words for name, page in paths.items()},
            until=start + NAMED_SECONDS,
        )
        if PICTURES:
            _keep(pictures, ROOT / PICTURES)
    assert len(found) == VIEWS * len(pages)
    wrong = [text for one in found for text in (*_missing(one, paths[one.name]), *one.wrong)]
    assert not wrong, wrong
    shown = max(one.read_at for one in found) - start
    assert shown <= NAMED_SECONDS, f"{fault}: all {VIEWS} views were read {shown:.0f} s after its start"
    words = [word for page in pages.values() for word in page.words]
    named = Named(fault, words, round(seconds, 1), round(shown, 1))
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "named.jsonl").open("a") as lines:
        lines.write(json.dumps(asdict(named)) + "\n")
    return named


def slug(fault: str) -> str:
    """Return a name of a file for a fault."""
    return re.sub(r"[^a-z0-9]+", "-", fault.lower()).strip("-")


def _missing(one: Opened, page: Page) -> list[str]:
    missing = page.missing(one.text)
    return [f"{one.name} at {one.width} px, {one.scheme}: no {missing} in {one.text}"] if missing else []


def _keep(pictures: Path, folder: Path) -> None:
    """Store the pictures of :data:`KEPT_VIEWS` with few colours: a quarter of the bytes, and as readable."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in sorted(pictures.iterdir()):
        if picture.stem.endswith(KEPT_VIEWS):
            with Image.open(picture) as image:
                few = image.convert("RGB").quantize(
                    COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
                )
                few.save(folder / picture.name, optimize=True)


def table(rows: Sequence[Named]) -> str:
    """Return a Markdown table of the last result of each fault."""
    last = {row.fault: row for row in rows}
    lines = [
        "| fault or cause | words on the page | named after, s | seen in all views after, s |",
        "|---|---|---|---|",
    ]
    for row in last.values():
        words = "; ".join(row.words).replace("|", "/")
        lines.append(f"| {row.fault} | {words} | {row.seconds:.0f} | {row.shown:.0f} |")
    return "\n".join(lines)


def main() -> None:
    lines = (KEPT / "named.jsonl").read_text().splitlines()
    print(table([Named(**json.loads(line)) for line in lines]))


if __name__ == "__main__":
    main()
