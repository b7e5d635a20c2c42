"""The clients' API keys: reading them and refusing an unusable list. Never prints a key."""

import re
import secrets
from pathlib import Path

from edge_gateway.settings import BadSettings, read_yaml

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,127}$")
_KEY = re.compile(r"^[A-Za-z0-9._~+/=-]{16,256}$")


def load_keys(path: Path) -> dict[str, list[str]]:
    """Read a keys file: ``clients: {name: [key, …]}``. Several keys of one client allow rotation.

    Raises:
        BadSettings: no client, a client without a key, a weak or doubled key, a key file that
            others may read.
    """
    document = read_yaml(path)
    clients = document.get("clients")
    problems = [f"{path}: unknown key {key!r} (known: clients)" for key in document if key != "clients"]
    if not isinstance(clients, dict) or not clients:
        raise BadSettings(f"{path}: no client has a key; an edge without credentials does not start")
    if path.stat().st_mode & 0o007:
        problems.append(f"{path}: readable by everybody; use mode 0600 (or 0640)")
    owner: dict[str, str] = {}
    for name, keys in clients.items():
        if not isinstance(name, str) or not _NAME.match(name):
            problems.append(f"{path}: client {name!r}: a name is 1-128 of A-Z a-z 0-9 . _ @ -")
            continue
        if not isinstance(keys, list) or not keys:
            problems.append(f"{path}: client {name}: needs a list of at least one key")
            continue
        for number, key in enumerate(keys):
            if not isinstance(key, str) or not _KEY.match(key):
                problems.append(
                    f"{path}: client {name}, key {number}: 16-256 characters of A-Z a-z 0-9 . _ ~ + / = -"
                )
            elif key in owner:
                problems.append(f"{path}: client {name}, key {number}: already belongs to {owner[key]}")
            else:
                owner[key] = name
    if problems:
        raise BadSettings("\n".join(problems))
    return {name: list(keys) for name, keys in clients.items()}


def new_key() -> str:
    """Return a random API key with 256 bits of entropy."""
    return "sk-" + secrets.token_urlsafe(32)
