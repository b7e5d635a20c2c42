"""The command `observability`: renders what Prometheus and Alertmanager read."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from observability.scraping import alertmanager_configuration, prometheus_configuration


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit 0 fine, 2 bad input."""
    parser = argparse.ArgumentParser(prog="observability", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rendering = commands.add_parser("render", help="Write prometheus.yml, alertmanager.yml and rules/.")
    rendering.add_argument("--profile", choices=["local"], required=True)
    rendering.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    out: Path = options.out.absolute()
    (out / "rules").mkdir(parents=True, exist_ok=True)
    documents = {
        "prometheus.yml": prometheus_configuration(os.environ, str(out / "rules" / "*.yml")),
        "alertmanager.yml": alertmanager_configuration(),
    }
    for name, document in documents.items():
        (out / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
