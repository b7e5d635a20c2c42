"""The command: `engine-simulator serve`, and `dcgm`, which shows the GPUs of several simulators as one exporter."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Any

import httpx
import structlog
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine_simulator.app import SimulatorApp
from engine_simulator.device import Device, dcgm_text
from engine_simulator.engine import Capacity, Engine, Timing
from engine_simulator.faults import Faults
from engine_simulator.spans import SpanExporter

LOOPBACK = "127.0.0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.JSONRenderer(),
        ]
    )
    logging.disable(logging.ERROR)  # a cut connection is what was asked for, not an error of ours
    return int(options.run(options))


def _serve(options: argparse.Namespace) -> int:
    timing = Timing(
        options.prefill_seconds_per_token,
        options.step_seconds,
        options.step_seconds_per_sequence,
        options.jitter,
    )
    capacity = Capacity(options.max_num_seqs, options.max_model_len, options.kv_tokens)
    uvloop.run(_run(options, timing, capacity))
    return 0


async def _run(options: argparse.Namespace, timing: Timing, capacity: Capacity) -> None:
    faults = Faults(options.seed)
    engine = Engine(timing, capacity, faults, options.seed)
    models = list(dict.fromkeys([options.model, *options.served_model_name]))
    app = SimulatorApp(engine, faults, Device(engine, faults, options.seed), models)
    if options.otlp_traces_endpoint:
        app.spans = SpanExporter(options.otlp_traces_endpoint)
    config = uvicorn.Config(
        app,
        host=LOOPBACK,
        port=options.port,
        http=HttpToolsProtocol,
        loop="none",
        access_log=False,
        log_config=None,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=options.shutdown_timeout,
        lifespan="on",
    )
    server = uvicorn.Server(config)

    async def listen(on: bool, spare: tuple[str, int] | None = None) -> None:
        if not on:
            for socket_server in server.servers:
                socket_server.close()
            for connection in list(server.server_state.connections):
                spared = isinstance(connection, HttpToolsProtocol) and connection.client == spare
                if not spared:
                    connection.transport.abort()
            return
        loop = asyncio.get_running_loop()
        server.servers = [await loop.create_server(_protocol_factory(server, config), LOOPBACK, options.port)]

    app.listen = listen
    log = structlog.get_logger(service="engine-simulator")
    log.info("starting", port=options.port, models=models, seed=options.seed)
    await server.serve()


def _protocol_factory(server: uvicorn.Server, config: uvicorn.Config) -> Any:
    def make() -> HttpToolsProtocol:
        return HttpToolsProtocol(
            config=config, server_state=server.server_state, app_state=server.lifespan.state
        )

    return make


def _dcgm(options: argparse.Namespace) -> int:
    """Serve /metrics in dcgm-exporter's names for the simulators at the given URLs."""
    client = httpx.AsyncClient(timeout=2.0, trust_env=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        readings = []
        for url in options.engine:
            try:
                reading = (await client.get(f"{url}/sim/state")).json()["device"]
            except (httpx.HTTPError, ValueError):
                continue
            if reading is not None:
                readings.append(reading)
        body = dcgm_text(readings)
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    uvicorn.run(app, host=LOOPBACK, port=options.port, access_log=False, log_config=None, lifespan="off")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="engine-simulator", description=(__doc__ or "").strip())
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="serve vLLM's API on 127.0.0.1")
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument(
        "--seed", type=int, default=1, help="of jitter and of faults that hit a share of requests"
    )
    serve.add_argument("--model", default="simulated-model")
    serve.add_argument("--served-model-name", action="append", default=[], help="a further name; may repeat")
    serve.add_argument("--max-model-len", type=int, default=8192)
    serve.add_argument("--max-num-seqs", type=int, default=256)
    serve.add_argument("--kv-tokens", type=int, default=400_000, help="tokens that the KV cache holds")
    serve.add_argument("--prefill-seconds-per-token", type=float, default=0.0002)
    serve.add_argument("--step-seconds", type=float, default=0.02)
    serve.add_argument("--step-seconds-per-sequence", type=float, default=0.0001)
    serve.add_argument("--jitter", type=float, default=0.05, help="share of a step's time")
    serve.add_argument(
        "--shutdown-timeout", type=int, default=30, help="seconds that running requests get at the end"
    )
    serve.add_argument("--otlp-traces-endpoint", help="URL that takes spans over OTLP/HTTP")
    serve.set_defaults(run=_serve)
    dcgm = commands.add_parser("dcgm", help="show the simulators' GPUs as dcgm-exporter would")
    dcgm.add_argument("--port", type=int, required=True)
    dcgm.add_argument("--engine", action="append", required=True, help="URL of a simulator; may repeat")
    dcgm.set_defaults(run=_dcgm)
    return parser


if __name__ == "__main__":
    sys.exit(main())
