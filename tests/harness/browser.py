"""Opens pages in Debian's chromium, driven by playwright, with axe's verdict on each. Without chromium or npm a test is
skipped by name.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.npm import ROOT, installed
from harness.programs import require

PROJECT = ROOT / "services/console/tests/browser"
WIDTHS = (390, 1400)
SCHEMES = ("light", "dark")
SERIOUS = ("serious", "critical")


@dataclass(frozen=True)
class Opened:
    """One page in one width and colour scheme, as the browser shows it."""

    name: str
    width: int
    scheme: str
    status: int
    text: str
    read_at: float
    """When the text was read, in epoch seconds."""
    errors: Sequence[str]
    """Errors in the browser's console, such as violations of the page's own policy."""
    overflow: int
    """Pixels by which the page is wider than the window."""
    violations: Sequence[Mapping[str, Any]]
    """What axe found: id, impact, and some elements."""

    @property
    def wrong(self) -> list[str]:
        """Return what must not be on any page."""
        where = f"{self.name} at {self.width} px, {self.scheme}"
        found = [
            f"{where}: {one['id']} {one['nodes']}" for one in self.violations if one["impact"] in SERIOUS
        ]
        # The browser reports the status of a page that is not there as an error.
        found += [f"{where}: {error}" for error in self.errors if f"status of {self.status}" not in error]
        return found + ([f"{where}: {self.overflow} px too wide"] if self.overflow > 0 else [])


def opened(
    url: str,
    pages: Mapping[str, str],
    widths: Sequence[int] = WIDTHS,
    schemes: Sequence[str] = SCHEMES,
    pictures: Path | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
    until: float = 0.0,
) -> list[Opened]:
    """Open each of ``pages`` (name to path) in every width and scheme at once with one browser; write ``pictures`` there.

    A page without its ``words`` is loaded again each second until the epoch time ``until``.
    """
    require("chromium", "install it: apt-get install --no-install-recommends chromium")
    folder = installed(PROJECT)
    asked = {
        "executable": shutil.which("chromium"),
        "url": url,
        "pages": pages,
        "words": words or {},
        "until": until * 1e3,
        "widths": widths,
        "schemes": schemes,
        "pictures": None if pictures is None else str(pictures),
    }
    done = subprocess.run(
        ["node", "browse.mjs"], cwd=folder, input=json.dumps(asked), capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Opened(**json.loads(line)) for line in done.stdout.splitlines()]
