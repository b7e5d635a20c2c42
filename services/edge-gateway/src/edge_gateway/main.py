"""The command `edge-gateway`: render, check, start, routes, drain. Only wires the other modules."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. Exit 0 fine, 1 a drain that ran out of time, 2 bad input."""
    options = _parser().parse_args(arguments)
    if options.command == "drain":
        # Alone and on the standard library only: a stop hook must work when little else does.
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
    from edge_gateway.credentials import load_digests, new_key
    from edge_gateway.render import ENVOY_FILE, ROUTES_FILE, Rendered, render, write_atomically
    from edge_gateway.settings import BadSettings, Settings, load_settings

    def rendered(settings: Settings, directory: Path) -> Rendered:
        path = options.keys_file or settings.auth.keys_file
        digests = None
        if settings.auth.mode == "api_keys":
            if path is None:
                raise BadSettings(
                    "no API keys: give --keys-file or auth.keys_file; the edge does not start open"
                )
            digests = load_digests(Path(path))
        return render(settings, digests, options.mounted_at or directory, options.routes_file)

    if options.command == "new-key":
        print(new_key())
        return 0
    if options.command == "start" and options.rendered:
        routes = options.routes_file or options.rendered / ROUTES_FILE
        launch.require_credentials(routes, launch.authentication_of(options.rendered / ENVOY_FILE))
        launch.validate(options.rendered, routes)
        launch.become_envoy(options.rendered, options.drain_seconds)
    if options.settings is None:
        raise BadSettings("start needs --settings, or --rendered for files rendered before")
    settings = load_settings(options.settings)
    if options.command == "routes":
        table = rendered(settings, options.out.parent).files[ROUTES_FILE]
        write_atomically(options.out, table, 0o600)
        return 0
    directory = (options.out if options.command == "render" else options.run_dir).absolute()
    rendered(settings, directory).write(directory)
    if options.command == "render":
        return 0
    launch.validate(directory, options.routes_file)
    if options.command == "check":
        return 0
    _say("starting", port=settings.listen.port, router=f"{settings.router.host}:{settings.router.port}")
    launch.become_envoy(directory, settings.timeouts.drain_seconds)


def _say(event: str, **fields: object) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": now, "level": "info", "service": "edge-gateway", "event": event, **fields}
    print(json.dumps(line), flush=True)


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
        added.add_argument("--routes-file", type=Path, help="where Envoy watches the route table")

    added = command("render", "Write Envoy's files.")
    added.add_argument("--out", type=Path, required=True, help="the folder to write")
    added.add_argument(
        "--mounted-at", type=Path, help="the folder Envoy will read them from (default: --out)"
    )
    routes_option(added)
    added = command("check", "Write Envoy's files and let Envoy validate them.")
    added.add_argument("--run-dir", type=Path, required=True)
    routes_option(added)
    added = command("start", "Render, validate and become Envoy.")
    added.add_argument("--run-dir", type=Path, default=Path(".run/edge"))
    added.add_argument("--rendered", type=Path, help="start from files rendered before (a ConfigMap)")
    added.add_argument("--drain-seconds", type=float, default=10.0, help="with --rendered")
    routes_option(added)
    added = command("routes", "Write only the route table: rotates keys and changes limits while running.")
    added.add_argument("--out", type=Path, required=True)
    command("new-key", "Print a new random API key.", settings=False)
    added = command("drain", "Stop an edge without cutting an answer (the stop hook).", settings=False)
    added.add_argument("--admin-host", default="127.0.0.1")
    added.add_argument("--admin-port", type=int, default=int(os.environ.get("EDGE_ADMIN_PORT") or 9901))
    added.add_argument("--settle-seconds", type=float, default=5.0, help="for load balancers to notice")
    added.add_argument("--idle-seconds", type=float, default=5.0, help="for idle connections to go")
    added.add_argument("--limit-seconds", type=float, default=640.0, help="give up waiting after this")
    return parser


if __name__ == "__main__":
    sys.exit(main())
