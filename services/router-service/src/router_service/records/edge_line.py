"""Describes a line of the edge's access log for people, for requests that the edge refused before any router."""

from collections.abc import Mapping
from typing import Any

_CODES = {
    "401": "it had no valid key",
    "404": "its path does not exist",
    "405": "its method is not allowed there",
    "408": "its body did not arrive in time",
    "411": "its body has no length",
    "413": "its body is too large",
    "415": "its body is not JSON",
    "429": "its client was over a limit",
    "431": "its headers are too large",
}


def explain_edge_line(line: Mapping[str, Any]) -> str:
    """Return sentences about one request of the access log (its fields: docs/signals.md)."""
    code = line.get("code")
    said = [
        f"Request {line.get('request_id')} at {line.get('time')}",
        f"  asked {line.get('method')} {line.get('path')}.",
    ]
    if line.get("client_id"):
        said[0] = f"Request {line.get('request_id')} by {line['client_id']} at {line.get('time')}"
    if line.get("upstream"):
        said.append(
            f"  The edge sent it to a router ({line['upstream']}), which has no record of it any more."
        )
        said.append(f"  It was answered with status {code} after {line.get('duration_ms')} ms.")
        return "\n".join(said)
    why = _CODES.get(str(code), "")
    if line.get("refused_code"):
        field = f", field {line['refused_param']}" if line.get("refused_param") else ""
        why = f"{line['refused_code']}{field}"
    said.append(f"  The edge refused it with status {code}" + (f": {why}." if why else "."))
    if line.get("details") and not why:
        said.append(f"  Envoy's details: {line['details']} (flags {line.get('flags') or 'none'}).")
    said.append("  No router has seen it.")
    return "\n".join(said)
