"""Reads and writes the weights file. Only the leading controller writes it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from router_service.config.rollout_model import ShareSection

HEAD = "# Written by `router-service rollout run`. Routers read it; see docs/guarded-rollouts.md.\n"


class WeightsProblem(Exception):
    """The weights could not be read or written. The text says where, why and what to do."""


class WeightsStore(Protocol):
    """Where routers get their weights file from."""

    async def refresh(self) -> None:
        """Make the controller's weights file equal to the routers'.

        Raises:
            WeightsProblem: it is not known what routers read.
        """

    async def write(self, path: Path, shares: Mapping[str, ShareSection]) -> None:
        """Replace the weights. ``path`` is the controller's weights file.

        Raises:
            WeightsProblem: they were not written, or that is not known.
        """

    async def close(self) -> None:
        """Close connections."""


class SharedFile:
    """A file that controller and routers share."""

    async def refresh(self) -> None:
        """Do nothing: routers read the same file."""

    async def write(self, path: Path, shares: Mapping[str, ShareSection]) -> None:
        try:
            replace_file(path, weights_text(shares))
        except OSError as error:
            raise WeightsProblem(
                f"{path}: cannot be written: {error.strerror}; let this user write the folder"
            ) from error

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


def weights_text(shares: Mapping[str, ShareSection]) -> str:
    """Return the weights file. JSON is YAML, so that writing needs no YAML library."""
    rollouts = {
        rule: share.model_dump(mode="json", exclude_none=True) for rule, share in sorted(shares.items())
    }
    return HEAD + json.dumps({"api_version": "v1", "rollouts": rollouts}, indent=2, ensure_ascii=False) + "\n"


def replace_file(path: Path, text: str) -> None:
    """Replace the file as a whole, so that no router reads half of it.

    Raises:
        OSError: the folder cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
