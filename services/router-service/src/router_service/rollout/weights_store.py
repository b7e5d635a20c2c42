"""Reads and writes the weights file. Only the leading controller writes it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from router_service.config.rollout_model import ShareSection

HEAD = "# Written by `router-service rollout run`. Routers read it; see docs/guarded-rollouts.md.\n"


def write_weights(path: Path, shares: Mapping[str, ShareSection]) -> None:
    """Replace the file as a whole, so that no router reads half of it.

    Raises:
        OSError: the folder cannot be written.
    """
    rollouts = {
        rule: share.model_dump(mode="json", exclude_none=True) for rule, share in sorted(shares.items())
    }
    # JSON is YAML, so that writing needs no YAML library.
    values = {"api_version": "v1", "rollouts": rollouts}
    text = HEAD + json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
