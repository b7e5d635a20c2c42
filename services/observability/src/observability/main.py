"""The command `observability`: renders what Prometheus and Alertmanager read, and asks them questions."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from observability import why_ttft
from observability.alerts import RUNBOOKS, alert_groups
from observability.notifying import alertmanager_configuration
from observability.promql import TimeScale
from observability.scraping import prometheus_configuration
from observability.verdict import recording_groups


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit 0 fine, 2 bad input."""
    parser = argparse.ArgumentParser(prog="observability", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rendering = commands.add_parser("render", help="Write prometheus.yml, alertmanager.yml and rules/.")
    rendering.add_argument("--profile", choices=["local"], required=True)
    rendering.add_argument("--out", type=Path, required=True)
    rendering.add_argument("--runbooks", default=RUNBOOKS, help="URL of the folder with the runbooks")
    rendering.add_argument(
        "--time-scale",
        type=float,
        default=1.0,
        help="shrink every window and hold time, for tests (1/30 = 0.0333)",
    )
    asking = commands.add_parser("why-ttft", help="Say why the time to first token changed.")
    why_ttft.add_arguments(asking)
    options = parser.parse_args(arguments)
    if options.command == "why-ttft":
        return why_ttft.run(options)
    out: Path = options.out.absolute()
    (out / "rules").mkdir(parents=True, exist_ok=True)
    scale = TimeScale(options.time_scale)
    documents = {
        "rules/recording.yml": {"groups": recording_groups(scale)},
        "rules/alerts.yml": {"groups": alert_groups(scale, options.runbooks)},
        "prometheus.yml": prometheus_configuration(os.environ, str(out / "rules" / "*.yml")),
        "alertmanager.yml": alertmanager_configuration(),
    }
    for name, document in documents.items():
        (out / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
