"""The stack's API keys and the files clients read them from. Keys are created once and stored nowhere else."""

import os
import secrets
from pathlib import Path

import yaml

from platform_tools.local_stack.settings import Settings

CLIENTS = ("demo", "load")


def write_credentials(settings: Settings) -> dict[str, str]:
    """Create keys and client.env if missing; return the keys by client. Existing keys stay valid."""
    keys = _read(settings.keys_file)
    if any(client not in keys for client in CLIENTS):
        keys = {client: keys.get(client, f"sk-{secrets.token_urlsafe(32)}") for client in CLIENTS}
        _write(settings.keys_file, yaml.safe_dump({"clients": {name: [key] for name, key in keys.items()}}))
    _write(
        settings.client_env,
        f"OPENAI_BASE_URL={settings.url('EDGE_PORT', '/v1')}\n"
        f"OPENAI_API_KEY={keys['demo']}\n"
        f"OPENAI_API_KEY_LOAD={keys['load']}\n",
    )
    return keys


def _read(path: Path) -> dict[str, str]:
    try:
        document = yaml.safe_load(path.read_text())
        return {name: keys[0] for name, keys in document["clients"].items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError, AttributeError):
        return {}


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner can read, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)
