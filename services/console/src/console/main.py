"""The command `console`: serves the pages. It has no login, so it listens on loopback by default."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

import uvicorn

from console.app import Links, make_app
from console.prometheus import Prometheus
from console.routers import Routers
from platform_contracts.listening import host_of_both_families
from platform_contracts.log_lines import capture_library_log


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command until a signal; return the exit code: 2 for bad input."""
    parser = argparse.ArgumentParser(prog="console", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="serve the pages")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a pod")
    serving.add_argument("--port", type=int, default=_port("CONSOLE_PORT", 8091), help="port to listen on")
    serving.add_argument("--trace-url", default="", help="link to a trace, with {trace_id} in it")
    serving.add_argument("--charts-url", default="", help="link to the dashboards")
    watching = commands.add_parser("watch", help="show the state in this terminal")
    watching.add_argument("--times", type=int, default=0, help="end after this many readings (0: never)")
    answering = commands.add_parser("mcp", help="answer a client of the Model Context Protocol; read-only")
    answering.add_argument(
        "--port", type=int, help="listen on this loopback port (default: stdin and stdout)"
    )
    for command in (serving, watching, answering):
        command.add_argument(
            "--router", action="append", default=[], metavar="URL", help="URL of a router; may repeat"
        )
        command.add_argument(
            "--router-dns", default="", metavar="NAME:PORT", help="a headless Service of routers"
        )
        default = f"http://127.0.0.1:{_port('PROMETHEUS_PORT', 9090)}"
        command.add_argument("--prometheus", default=default, metavar="URL", help="Prometheus")
    options = parser.parse_args(arguments)
    if options.router_dns and not options.router_dns.rpartition(":")[2].isdigit():
        print(f'--router-dns "{options.router_dns}": write it as NAME:PORT', file=sys.stderr)
        return 2
    if not options.router and not options.router_dns:
        options.router = [f"http://127.0.0.1:{_port('ROUTER_PORT', 8000)}"]
    if options.command == "watch":
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_watch(options))
        return 0
    if options.command == "mcp":
        return _answer(options)
    links = Links(options.trace_url, options.charts_url)
    app = make_app(Routers(options.router, options.router_dns), Prometheus(options.prometheus), links)
    capture_library_log("console")
    uvicorn.run(
        app, host=host_of_both_families(options.host), port=options.port, access_log=False, log_config=None,
        server_header=False, limit_concurrency=32, timeout_keep_alive=5,
    )  # fmt: skip
    return 0


def _answer(options: argparse.Namespace) -> int:
    try:
        from console.mcp_server import serve  # The package mcp is optional.
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        print("console mcp: the package mcp is missing: pip install 'console[mcp]'", file=sys.stderr)
        return 2
    with contextlib.suppress(KeyboardInterrupt):
        serve(Routers(options.router, options.router_dns), Prometheus(options.prometheus), options.port)
    return 0


async def _watch(options: argparse.Namespace) -> None:
    from console.watch import watch  # Imported here because rich uses memory that the server does not need.

    routers, prometheus = Routers(options.router, options.router_dns), Prometheus(options.prometheus)
    try:
        await watch(routers, prometheus, options.times)
    finally:
        await routers.close()
        await prometheus.close()


def _port(variable: str, default: int) -> int:
    return int(os.environ.get(variable) or default)


if __name__ == "__main__":
    sys.exit(main())
