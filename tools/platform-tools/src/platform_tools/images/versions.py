"""Reads `versions.yaml` and writes digests into it line by line, which keeps its comments."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from platform_tools.checkout import ROOT

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BUILT = """\
built_images:
  # Ours, as `make images` pushed them last.
"""


@dataclass(frozen=True)
class Image:
    """One entry of the file: repository, tag and digest ("" until it is read from a registry)."""

    source: str
    version: str
    digest: str

    @property
    def reference(self) -> str:
        """By digest if known, because a tag can be moved."""
        return f"{self.source}:{self.version}" + (f"@{self.digest}" if self.digest else "")


def images(path: Path, section: str = "images") -> dict[str, Image]:
    """Return the images of a section by name."""
    entries = yaml.safe_load(path.read_text()).get(section) or {}
    return {name: Image(e["source"], e["version"], e["digest"]) for name, e in entries.items()}


def put_digest(path: Path, name: str, digest: str) -> None:
    """Write the digest of one of `images`, as read from a registry.

    Raises:
        ValueError: the value is not a digest, or the file has no such image.
    """
    if not DIGEST.fullmatch(digest):
        raise ValueError(f'{name}: "{digest}" is not a digest (sha256: and 64 hexadecimal digits)')
    entry = re.compile(
        rf'^(  {re.escape(name)}: \{{.*digest: )"[^"]*"(, verified: )(?:true|false)\}}$', re.MULTILINE
    )
    text, count = entry.subn(rf'\g<1>"{digest}"\g<2>true}}', path.read_text())
    if count != 1:
        raise ValueError(f"{path.name}: no image {name} with a digest to fill in")
    path.write_text(text)


def put_built(path: Path, built: dict[str, Image]) -> None:
    """Rewrite the section of our own images; keep those that were not built this time."""
    all_built = images(path, "built_images") | built
    text = re.sub(r"^built_images:\n(?:  .*\n)*", "", path.read_text(), flags=re.MULTILINE)
    lines = [
        f'  {name}: {{version: "{image.version}", source: "{image.source}", digest: "{image.digest}"}}\n'
        for name, image in sorted(all_built.items())
    ]
    path.write_text(text + _BUILT + "".join(lines))


def main(arguments: list[str]) -> int:
    """Record one of our images as it was pushed: NAME REPOSITORY TAG DIGEST."""
    if len(arguments) != 4 or not DIGEST.fullmatch(arguments[3]):
        print("usage: python -m platform_tools.images.versions NAME REPOSITORY TAG DIGEST", file=sys.stderr)
        return 2
    name, *facts = arguments
    put_built(ROOT / "versions.yaml", {name: Image(*facts)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
