"""The command `edge-gateway`: render, check, start, routes, drain. Only connects the other modules."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from platform_contracts.log_lines import log_line

if TYPE_CHECKING:
    from edge_gateway.render import Rendered
    from edge_gateway.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit 0 success, 1 a drain that timed out, 2 bad input."""
    options = _parser().parse_args(arguments)
    if options.command == "drain":
        # Imported alone, and it needs only the standard library: a stop hook must work even if other parts
        # fail.
        from edge_gateway.drain import drain

        where = (options.admin_host, options.admin_port)
        return drain(*where, options.settle_seconds, options.idle_seconds, options.limit_seconds)
    from edge_gateway.settings import BadSettings

    try:
        return _run(options)
    except BadSettings as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:  # noqa: RET503 (become_envoy does not return)
    from edge_gateway import launch
    from edge_gateway.credentials import new_key
    from edge_gateway.render import ENVOY_FILE, ROUTES_FILE, write_atomically
    from edge_gateway.settings import BadSettings, load_settings
    from edge_gateway.watch import start_watching

    if options.command == "new-key":
        print(new_key())
        return 0
    if options.command == "start" and options.rendered:
        routes = options.routes_file or options.rendered / ROUTES_FILE
        launch.require_credentials(routes, launch.authentication_of(options.rendered / ENVOY_FILE))
        launch.validate(options.rendered, routes)
        launch.become_envoy(options.rendered, options.drain_seconds)
    if options.settings is None:
        raise BadSettings("start needs --settings, or --rendered with rendered files")
    settings = load_settings(options.settings, warn=_warn)
    if options.command == "routes":
        table = _rendered(options, settings, options.out.parent).files[ROUTES_FILE]
        write_atomically(options.out, table, 0o600)
        return 0
    directory = (options.out if options.command == "render" else options.run_dir).absolute()
    _rendered(options, settings, directory).write(directory)
    if options.command == "render":
        return 0
    launch.validate(directory, options.routes_file)
    if options.command == "check":
        return 0
    _say(
        "starting",
        port=settings.listen.port,
        router=settings.router.addresses,
    )
    watched = [options.settings]
    if settings.auth.mode == "api_keys":
        watched.append(Path(options.keys_file or str(settings.auth.keys_file)))

    def rewrite() -> None:
        table = _rendered(options, load_settings(options.settings), directory).files[ROUTES_FILE]
        write_atomically(directory / ROUTES_FILE, table, 0o600)

    if options.routes_file is None:
        start_watching(watched, rewrite, _say)
    launch.become_envoy(directory, settings.timeouts.drain_seconds)


def _rendered(options: argparse.Namespace, settings: "Settings", directory: Path) -> "Rendered":
    from edge_gateway import launch
    from edge_gateway.credentials import load_digests
    from edge_gateway.render import render, render_without_routes
    from edge_gateway.settings import BadSettings

    path = options.keys_file or settings.auth.keys_file
    if options.command in ("check", "start") and options.routes_file and path is None:
        launch.require_credentials(options.routes_file, settings.auth.mode)
        return render_without_routes(settings, directory, options.routes_file)
    digests = None
    if settings.auth.mode == "api_keys":
        if path is None:
            raise BadSettings(
                "no API keys: set --keys-file or auth.keys_file; an edge without credentials does not start"
            )
        digests = load_digests(Path(path))
    return render(settings, digests, options.mounted_at or directory, options.routes_file)


def _say(event: str, level: str = "info", **fields: object) -> None:
    print(log_line("edge-gateway", level, event, **fields), flush=True)


def _warn(problem: str) -> None:
    """Report a former key, on stderr: `render` and `routes` may have their output piped."""
    print(log_line("edge-gateway", "warning", "config_key_renamed", problems=[problem]), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge-gateway", description="Renders, checks and starts the edge.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str, *, settings: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(keys_file=None, routes_file=None, rendered=None, mounted_at=None)
        if settings:
            added.add_argument("--settings", type=Path, required=name != "start", help="the settings file")
            added.add_argument("--keys-file", type=Path, help="clients and their API keys (mode 0600)")
        return added

    def routes_option(added: argparse.ArgumentParser) -> None:
        added.add_argument("--routes-file", type=Path, help="path at which Envoy watches the route table")

    added = command("render", "Write Envoy's files.")
    added.add_argument("--out", type=Path, required=True, help="output folder")
    added.add_argument(
        "--mounted-at", type=Path, help="folder from which Envoy reads the files (default: --out)"
    )
    routes_option(added)
    added = command("check", "Write Envoy's files and validate them with Envoy.")
    added.add_argument("--run-dir", type=Path, required=True)
    routes_option(added)
    added = command("start", "Render and validate, then replace this process by Envoy.")
    added.add_argument("--run-dir", type=Path, default=Path(".run/edge"))
    added.add_argument("--rendered", type=Path, help="start from rendered files (a ConfigMap)")
    added.add_argument("--drain-seconds", type=float, default=10.0, help="with --rendered")
    routes_option(added)
    added = command("routes", "Write only the route table, to rotate keys or change limits while Envoy runs.")
    added.add_argument("--out", type=Path, required=True)
    command("new-key", "Print a new random API key.", settings=False)
    added = command("drain", "Stop an edge without cutting responses (the stop hook).", settings=False)
    added.add_argument("--admin-host", default="127.0.0.1")
    added.add_argument("--admin-port", type=int, default=int(os.environ.get("EDGE_ADMIN_PORT") or 9901))
    added.add_argument("--settle-seconds", type=float, default=5.0, help="time for load balancers to notice")
    added.add_argument("--idle-seconds", type=float, default=5.0, help="time for idle connections to close")
    added.add_argument("--limit-seconds", type=float, default=640.0, help="longest time for the whole drain")
    return parser


if __name__ == "__main__":
    sys.exit(main())
