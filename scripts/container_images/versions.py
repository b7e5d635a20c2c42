"""Reads `versions.yaml` and puts digests into it, line by line, so that its comments stay."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BUILT = """\
built_images:
  # Ours, as `make images` pushed them last.
"""


@dataclass(frozen=True)
class Image:
    """One entry of the file: where it comes from, its tag, its digest ("" while nobody could ask a registry)."""

    source: str
    version: str
    digest: str

    @property
    def reference(self) -> str:
        """By digest where one is known: a tag can be moved."""
        return f"{self.source}:{self.version}" + (f"@{self.digest}" if self.digest else "")


def images(path: Path, section: str = "images") -> dict[str, Image]:
    """Return the images of a section by name."""
    entries = yaml.safe_load(path.read_text()).get(section) or {}
    return {name: Image(e["source"], e["version"], e["digest"]) for name, e in entries.items()}


def put_digest(path: Path, name: str, digest: str) -> None:
    """Write the digest of one of `images`, which somebody has asked a registry for.

    Raises:
        ValueError: that is no digest, or the file has no such image.
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
    """Write the section of our own images anew; those that were not built this time stay."""
    all_built = images(path, "built_images") | built
    text = re.sub(r"^built_images:\n(?:  .*\n)*", "", path.read_text(), flags=re.MULTILINE)
    lines = [
        f'  {name}: {{version: "{image.version}", source: "{image.source}", digest: "{image.digest}"}}\n'
        for name, image in sorted(all_built.items())
    ]
    path.write_text(text + _BUILT + "".join(lines))
