"""The command line: `serve`, and the commands of `cli`."""

import argparse
import contextlib
import gc
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from router_service.app import Router
from router_service.cli.commands import add_commands, run
from router_service.config import BadConfig, load
from router_service.lifecycle import Lifecycle
from router_service.wiring import replica_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit 0: success; 1: a difference or a failure; 2: bad input."""
    parser = argparse.ArgumentParser(
        "router-service", description="Routes inference requests, forwards them, and explains each decision."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serving = commands.add_parser("serve", help="run the router")
    serving.add_argument("--config", type=Path, required=True)
    serving.add_argument("--port", type=int, help="listen on this port instead of the configuration's")
    serving.set_defaults(run=_serve)
    add_commands(commands)
    return run(parser.parse_args(arguments))


def _serve(options: argparse.Namespace) -> int:
    try:
        config = load(options.config)
        port = config.values.server.port if options.port is None else options.port
        router = Router(options.config, config, replica=replica_name(port))
    except BadConfig as error:
        print(error, file=sys.stderr)
        return 2
    _raise_file_limit()
    lifecycle = Lifecycle(router, config.values.server.host, port)
    # A request creates few reference cycles, so frequent collections would only stall streams.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    return uvloop.run(lifecycle.run())


def _raise_file_limit() -> None:
    """Raise the soft limit of open files: at two descriptors per stream, 1024 would allow 500 streams."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
