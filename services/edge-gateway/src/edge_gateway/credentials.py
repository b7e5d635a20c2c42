"""Reads the clients' API keys and refuses invalid key files. Returns only digests, never a key."""

import hashlib
import re
import secrets
from pathlib import Path
from typing import Any

from edge_gateway.client_limits import CLIENT_NAME
from edge_gateway.settings import BadSettings, read_yaml

_NAME = re.compile(CLIENT_NAME)
_KEY = re.compile(r"^[A-Za-z0-9._~+/=-]{16,256}$")
_DIGEST = re.compile(r"^sha256:([0-9a-f]{64})$")


def load_digests(path: Path) -> dict[str, list[str]]:
    """Read a keys file: ``clients: {name: [key, ...]}``; a key may also be ``sha256:<64 hex digits>``.

    Returns the SHA-256 of every key by client. Several keys of one client allow rotation.

    Raises:
        BadSettings: no client, a client without a key, a weak or repeated key, a file that other users may
            read.
    """
    document = read_yaml(path)
    problems = [f"{path}: unknown key {key!r} (known: clients)" for key in document if key != "clients"]
    clients = document.get("clients")
    if not isinstance(clients, dict) or not clients:
        raise BadSettings(f"{path}: no client has a key; an edge without credentials does not start")
    if path.stat().st_mode & 0o007:
        problems.append(f"{path}: other users may read it; use mode 0600 (or 0640)")
    owner: dict[str, str] = {}
    for name, keys in clients.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            problems.append(f"{path}: client {name!r}: a name is 1-128 of A-Z a-z 0-9 . _ @ -")
        elif not isinstance(keys, list) or not keys:
            problems.append(f"{path}: client {name}: needs a list of at least one key")
        else:
            for number, key in enumerate(keys):
                digest = _digest(key)
                if digest is None:
                    problems.append(
                        f"{path}: client {name}, key {number}: must be 16-256 characters of "
                        "A-Z a-z 0-9 . _ ~ + / = - or sha256:<64 hex digits>"
                    )
                elif digest in owner:
                    problems.append(
                        f"{path}: client {name}, key {number}: already belongs to {owner[digest]}"
                    )
                else:
                    owner[digest] = name
    if problems:
        raise BadSettings("\n".join(problems))
    return {name: [digest for digest in owner if owner[digest] == name] for name in clients}


def _digest(key: Any) -> str | None:
    if not isinstance(key, str):
        return None
    hashed = _DIGEST.fullmatch(key)
    if hashed:
        return hashed.group(1)
    return hashlib.sha256(key.encode()).hexdigest() if _KEY.fullmatch(key) else None


def new_key() -> str:
    """Return a random API key with 256 bits of entropy, so that its unsalted digest cannot be guessed."""
    return "sk-" + secrets.token_urlsafe(32)
