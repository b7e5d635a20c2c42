"""The command `observability`: renders configuration and dashboards, and explains the time to first token."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from observability.client_costs import command as client_costs
from observability.dashboards import html_page, page_server
from observability.dashboards.grafana import write_dashboards
from observability.moments import moment
from observability.prometheus_api import PagePrometheus
from observability.rules.alert import RUNBOOKS, rule_group
from observability.rules.alertmanager import alertmanager_configuration
from observability.rules.alerts import alert_groups
from observability.rules.cluster_alerts import cluster_alerts
from observability.rules.scrape_cluster import cluster_configuration
from observability.rules.scrape_local import SCRAPE_SECONDS, prometheus_configuration
from observability.rules.time_scale import TimeScale
from observability.rules.verdict import recording_groups
from observability.why_ttft import command
from platform_contracts.prometheus import Refused

CLUSTER_RULES = "/etc/prometheus/rules/*.yml"  # Mount path in the chart.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code: 0 success, 2 bad input."""
    parser = argparse.ArgumentParser(prog="observability", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rendering = commands.add_parser("render", help="Write prometheus.yml, alertmanager.yml and rules/.")
    rendering.add_argument("--profile", choices=["local", "cluster"], required=True)
    rendering.add_argument("--out", type=Path, required=True)
    rendering.add_argument(
        "--runbooks",
        help="URL of the runbooks' folder (default: the pictures server locally, the repository path on a cluster)",
    )
    rendering.add_argument(
        "--console", help="URL of the console that alerts link to (default: the local one; none on a cluster)"
    )
    rendering.add_argument(
        "--time-scale",
        type=float,
        default=float(os.environ.get("OBSERVABILITY_TIME_SCALE") or 1.0),
        help="shrink every window, hold time and scrape interval, for tests (1/30 = 0.0333)",
    )
    asking = commands.add_parser("why-ttft", help="Explain why the time to first token changed.")
    command.add_arguments(asking)
    costing = commands.add_parser("client-costs", help="Report what each client's requests cost, as CSV.")
    client_costs.add_arguments(costing)
    drawing = commands.add_parser("pictures", help="Draw the dashboards from Prometheus into one page.")
    port = os.environ.get("PROMETHEUS_PORT", "9090")
    drawing.add_argument("--prometheus", default=f"http://127.0.0.1:{port}", help="URL of Prometheus")
    where = drawing.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="write the page to this file")
    where.add_argument("--port", type=int, help="serve the page on 127.0.0.1")
    drawing.add_argument(
        "--minutes", type=float, default=15.0, help="time span of the written page, in minutes"
    )
    drawing.add_argument(
        "--until",
        type=moment,
        help="end of the written page: 2026-01-31T12:00:00Z or seconds since 1970 (default: now)",
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
        return command.run(options)
    if options.command == "client-costs":
        return client_costs.run(options)
    _render(
        options.profile,
        options.out.absolute(),
        TimeScale(options.time_scale),
        options.runbooks,
        options.console,
    )
    return 0


def _render(profile: str, out: Path, scale: TimeScale, runbooks: str | None, console: str | None) -> None:
    """Write the configuration of Prometheus and Alertmanager for ``profile`` into ``out``."""
    (out / "rules").mkdir(parents=True, exist_ok=True)
    local = profile == "local"
    pictures = os.environ.get("PICTURES_PORT") or "8090"
    folder = runbooks or (f"http://127.0.0.1:{pictures}/runbooks" if local else RUNBOOKS)
    port = os.environ.get("CONSOLE_PORT") or "8091"
    console = console or (f"http://127.0.0.1:{port}" if local else "")
    documents: dict[str, object] = {
        "rules/recording.yml": {"groups": recording_groups(scale)},
        "rules/alerts.yml": {"groups": alert_groups(scale, folder, console)},
        "alertmanager.yml": alertmanager_configuration(),
    }
    if local:
        pattern = str(out / "rules" / "*.yml")
        interval = scale.scrape(SCRAPE_SECONDS)
        documents["prometheus.yml"] = prometheus_configuration(os.environ, pattern, interval)
    else:
        documents["prometheus.yml"] = cluster_configuration(CLUSTER_RULES)
        group = rule_group("cluster", cluster_alerts(scale), scale, folder, console)
        documents["rules/cluster.yml"] = {"groups": [group]}
    for name, document in documents.items():
        (out / name).write_text(yaml.safe_dump(document, sort_keys=False))


def _pictures(options: argparse.Namespace) -> int:
    if options.port is not None:
        page_server.serve(options.port, options.prometheus)
        return 0
    end = options.until if options.until is not None else time.time()
    start = end - options.minutes * 60
    prometheus = PagePrometheus(options.prometheus)
    if not options.panel:
        options.out.write_text(html_page.page(prometheus, start, end, options.prometheus))
        return 0
    try:
        options.out.write_text(html_page.picture(options.panel, prometheus, start, end))
    except (ValueError, Refused) as problem:
        print(f"render-dashboards: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
