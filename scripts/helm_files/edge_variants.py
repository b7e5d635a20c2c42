"""The edge's Envoy configuration, once for each choice its chart offers. Renders with the edge's own renderer."""

from itertools import product
from pathlib import Path
from typing import Any

from edge_gateway.render import render, source_directory
from edge_gateway.settings import Settings, read_yaml

MOUNTED_AT = Path("/etc/edge")
ROUTES = Path("/etc/edge-routes/routes.yaml")
# What each choice adds to the settings of a cluster; the chart mounts the certificate there.
CHOICES: dict[str, dict[str, Any]] = {
    "tls": {
        "tls": {
            "certificate_file": "/etc/edge-tls/tls.crt",
            "private_key_file": "/etc/edge-tls/tls.key",
        }
    },
    "budgets": {"budgets": {"host": "rate-limit-service.llm.svc.cluster.local"}},
}
# Nobody's: the configuration holds no credential, but none is rendered without one.
_DIGESTS = {"nobody": ["0" * 64]}


def variants() -> dict[str, str]:
    """Return the files of the chart by name: envoy.yaml, envoy-tls.yaml, ..., edge_certificate.yaml."""
    cluster = read_yaml(source_directory() / "cluster.yaml")
    found: dict[str, str] = {}
    for chosen in product((False, True), repeat=len(CHOICES)):
        names = [name for name, on in zip(CHOICES, chosen, strict=True) if on]
        settings = Settings.model_validate(
            {**cluster, **{key: value for name in names for key, value in CHOICES[name].items()}}
        )
        files = render(settings, _DIGESTS, MOUNTED_AT, ROUTES).files
        found["-".join(["envoy", *names]) + ".yaml"] = files["envoy.yaml"]
        if "edge_certificate.yaml" in files:
            found["edge_certificate.yaml"] = files["edge_certificate.yaml"]
    return found


def main() -> int:
    """Write the files into the chart."""
    folder = Path(__file__).resolve().parents[2] / "helm" / "edge-gateway" / "files"
    for name, text in variants().items():
        (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
