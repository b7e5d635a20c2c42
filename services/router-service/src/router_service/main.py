"""The command line. `serve` runs the router and owns its signals; other commands are in `cli`."""

import argparse
import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
import uvloop

from router_service.api.uvicorn_relay import RelayProtocol
from router_service.app import Router
from router_service.cli.commands import add_commands, run
from router_service.config import BadConfig, load

LAST_SECONDS = 2.0
"""After total_seconds of a graceful end: for the error events of what was aborted to go out."""

KEEP_ALIVE_SECONDS = 60
"""Longer than the edge keeps its connections (50 s): the caller closes first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit 0: fine; 1: a difference or a failure; 2: bad input."""
    parser = argparse.ArgumentParser("router-service", description="Decides, forwards and explains.")
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
        router = Router(options.config, config)
    except BadConfig as error:
        print(error, file=sys.stderr)
        return 2
    _raise_file_limit()
    server = _Server(router)
    host = config.values.server.host
    port = config.values.server.port if options.port is None else options.port
    logging.getLogger("uvicorn.error").addHandler(_AsLine(router))
    settings = uvicorn.Config(
        router.asgi,
        host=host,
        port=port,
        http=RelayProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=None,
        backlog=4096,
    )
    # A request makes few cycles: collections that find nothing would only stall streams.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    return uvloop.run(server.run(settings))


class _Server:
    """Runs uvicorn under our own signal handling: uvicorn closes its listener at SIGTERM at once."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._uvicorn: uvicorn.Server | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def run(self, settings: uvicorn.Config) -> int:
        """Serve until a signal has been obeyed; the exit code."""
        server = self._uvicorn = uvicorn.Server(settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
        try:
            await server.serve()
        except SystemExit:  # uvicorn's way to say that it could not start; why is in the log
            return 1
        return 0

    def _signalled(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        elif self._uvicorn is not None:  # asked twice: no more patience
            self._router.pipeline.abort_all("the router is ending")
            self._uvicorn.should_exit = True

    async def _stop(self) -> None:
        """Not ready, then accept a little longer, then finish what runs, at most total_seconds."""
        router = self._router
        assert self._uvicorn is not None
        router.readiness.draining = True
        RelayProtocol.draining = True
        values = router.config.values
        router.log("info", "draining", settle_seconds=values.server.settle_seconds)
        await asyncio.sleep(values.server.settle_seconds)
        self._uvicorn.should_exit = True
        await asyncio.sleep(values.timeouts.total_seconds)
        router.pipeline.stopping = True  # nothing is retried any more
        router.pipeline.abort_all("the router is ending")
        await asyncio.sleep(LAST_SECONDS)
        # Clients that never sent the rest of their request, or do not read the rest of their answer.
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()


class _AsLine(logging.Handler):
    """uvicorn's own complaints as lines of our log."""

    def __init__(self, router: Router) -> None:
        super().__init__(logging.WARNING)
        self._router = router

    def emit(self, record: logging.LogRecord) -> None:
        values: dict[str, object] = {"detail": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            values["exception"] = f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
            values["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._router.log(record.levelname.lower(), "server", **values)


def _raise_file_limit() -> None:
    """Two descriptors per stream: the soft limit of 1024 would end at 500 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
