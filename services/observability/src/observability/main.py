"""The command `observability`: renders what Prometheus and Alertmanager read, and asks them questions."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from observability import pictures, why_ttft
from observability.alerts import RUNBOOKS, alert_groups
from observability.cluster_scraping import cluster_configuration
from observability.grafana import write_dashboards
from observability.notifying import alertmanager_configuration
from observability.prometheus_api import Prometheus
from observability.promql import TimeScale
from observability.scraping import SCRAPE_SECONDS, prometheus_configuration
from observability.verdict import recording_groups

CLUSTER_RULES = "/etc/prometheus/rules/*.yml"  # where the chart mounts them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit 0 fine, 2 bad input."""
    parser = argparse.ArgumentParser(prog="observability", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rendering = commands.add_parser("render", help="Write prometheus.yml, alertmanager.yml and rules/.")
    rendering.add_argument("--profile", choices=["local", "cluster"], required=True)
    rendering.add_argument("--out", type=Path, required=True)
    rendering.add_argument("--runbooks", default=RUNBOOKS, help="URL of the folder with the runbooks")
    rendering.add_argument(
        "--time-scale",
        type=float,
        default=float(os.environ.get("OBSERVABILITY_TIME_SCALE") or 1.0),
        help="shrink every window, hold time and scrape interval, for tests (1/30 = 0.0333)",
    )
    asking = commands.add_parser("why-ttft", help="Say why the time to first token changed.")
    why_ttft.add_arguments(asking)
    drawing = commands.add_parser("pictures", help="Draw the dashboards from Prometheus into one page.")
    port = os.environ.get("PROMETHEUS_PORT", "9090")
    drawing.add_argument("--prometheus", default=f"http://127.0.0.1:{port}", help="URL of Prometheus")
    where = drawing.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="write the page to this file")
    where.add_argument("--port", type=int, help="serve the page on 127.0.0.1")
    drawing.add_argument("--minutes", type=float, default=15.0, help="how far back the written page looks")
    drawing.add_argument(
        "--until",
        type=why_ttft.moment,
        help="when the written page ends: 2026-01-31T12:00:00Z or seconds since 1970 (now)",
    )
    drawing.add_argument("--panel", help="write only the panel of this title, as SVG")
    dashboards = commands.add_parser("dashboards", help="Write the Grafana dashboards.")
    dashboards.add_argument("--out", type=Path, required=True, help="folder")
    options = parser.parse_args(arguments)
    if options.command == "pictures":
        return _pictures(options)
    if options.command == "dashboards":
        write_dashboards(options.out)
        return 0
    if options.command == "why-ttft":
        return why_ttft.run(options)
    out: Path = options.out.absolute()
    (out / "rules").mkdir(parents=True, exist_ok=True)
    scale = TimeScale(options.time_scale)
    documents = {
        "rules/recording.yml": {"groups": recording_groups(scale)},
        "rules/alerts.yml": {"groups": alert_groups(scale, options.runbooks)},
        "prometheus.yml": (
            prometheus_configuration(os.environ, str(out / "rules" / "*.yml"), scale.scrape(SCRAPE_SECONDS))
            if options.profile == "local"
            else cluster_configuration(CLUSTER_RULES)
        ),
        "alertmanager.yml": alertmanager_configuration(),
    }
    for name, document in documents.items():
        (out / name).write_text(yaml.safe_dump(document, sort_keys=False))
    return 0


def _pictures(options: argparse.Namespace) -> int:
    if options.port is not None:
        pictures.serve(options.port, options.prometheus)
        return 0
    end = options.until if options.until is not None else time.time()
    start = end - options.minutes * 60
    prometheus = Prometheus(options.prometheus)
    if not options.panel:
        options.out.write_text(pictures.page(prometheus, start, end, options.prometheus))
        return 0
    try:
        options.out.write_text(pictures.picture(options.panel, prometheus, start, end))
    except ValueError as problem:
        print(f"render-dashboards: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
