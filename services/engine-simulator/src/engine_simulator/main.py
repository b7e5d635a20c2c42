"""The command `engine-simulator`: serve, fault, and dcgm (the GPUs of several simulators as one exporter)."""

import argparse
import asyncio
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import httpx
import structlog
import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine_simulator.app import VERSION, SimulatorApp
from engine_simulator.control import Control
from engine_simulator.device import Device, dcgm_text
from engine_simulator.engine import Capacity, Engine, Timing
from engine_simulator.faults import Faults
from engine_simulator.spans import SpanExporter
from platform_contracts.listening import host_of_both_families
from platform_contracts.log_lines import add_time

LOOPBACK = "127.0.0.1"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            add_time,
            structlog.processors.JSONRenderer(),
        ]
    )
    logging.disable(logging.ERROR)  # uvicorn would log every connection that a fault cuts as an error.
    return int(options.run(options))


def _serve(options: argparse.Namespace) -> int:
    if not _can_listen("--port", options.host, options.port):
        return 1
    if options.control_port is not None and not _can_listen("--control-port", LOOPBACK, options.control_port):
        return 1
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
    control = Control(engine, faults, Device(engine, faults, options.seed))
    # Other machines may send requests to the engine, but must not inject faults.
    app = SimulatorApp(
        engine,
        faults,
        models,
        control if _is_loopback(options.host) else None,
        store_responses=options.store_responses,
        version=options.engine_version,
    )
    if options.otlp_traces_endpoint:
        app.spans = SpanExporter(options.otlp_traces_endpoint)
    config = uvicorn.Config(
        app,
        host=host_of_both_families(options.host),
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
        server.servers = [
            await loop.create_server(
                lambda: HttpToolsProtocol(config, server.server_state, server.lifespan.state),
                host_of_both_families(options.host),
                options.port,
            )
        ]

    control.listen = listen
    log = structlog.get_logger(service="engine-simulator")
    log.info("starting", host=options.host, port=options.port, models=models, seed=options.seed)
    if options.control_port is None:
        await server.serve()
        return
    async with await _control_server(control, options.control_port):
        await server.serve()


async def _control_server(control: Control, port: int) -> asyncio.Server:
    """Open the control port on loopback. The fault ``refuse`` does not close it."""
    config = uvicorn.Config(control, http=HttpToolsProtocol, loop="none", log_config=None, access_log=False)
    config.load()
    state = uvicorn.server.ServerState()
    return await asyncio.get_running_loop().create_server(
        lambda: HttpToolsProtocol(config, state, {}), LOOPBACK, port
    )


def _can_listen(option: str, host: str, port: int) -> bool:
    """Return whether a server can listen on an address; if not, print the reason, which uvicorn would only log."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = (
            os.strerror(number) if number > 0 else str(error)
        )  # only the system's errors have a short form
        print(
            f"engine-simulator: {option} {port}: cannot listen on {host}:{port}: {reason}; choose another port, "
            "or stop the process that has it",
            file=sys.stderr,
        )
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _fault(options: argparse.Namespace) -> int:
    """Set or clear faults of a running simulator and print its state."""
    url = f"http://{LOOPBACK}:{options.port}/sim/faults"
    try:
        if options.fault == "clear":
            answer = httpx.delete(url, timeout=5.0, trust_env=False)
        else:
            answer = httpx.post(url, content=options.fault, timeout=5.0, trust_env=False)
    except httpx.HTTPError as error:
        print(
            f"engine-simulator fault: {url}: {error}: is this the simulator's control port?", file=sys.stderr
        )
        return 1
    print(answer.text)
    return 0 if answer.is_success else 2


def _dcgm(options: argparse.Namespace) -> int:
    """Serve /metrics with dcgm-exporter's names for the simulators at the given URLs."""
    if not _can_listen("--port", LOOPBACK, options.port):
        return 1
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
    serve = commands.add_parser("serve", help="serve vLLM's API")
    serve.add_argument(
        "--host", default=LOOPBACK, help="address to listen on; /sim is served there only if it is loopback"
    )
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument(
        "--control-port",
        type=int,
        help="also serve /sim on this port of 127.0.0.1, even while `refuse` is set",
    )
    serve.add_argument(
        "--seed", type=int, default=1, help="seed of the jitter and of faults that hit a share of requests"
    )
    serve.add_argument("--model", default="simulated-model")
    serve.add_argument("--engine-version", default=VERSION, help="the version that /version reports")
    serve.add_argument(
        "--served-model-name", action="append", default=[], help="an additional model name; may repeat"
    )
    serve.add_argument("--max-model-len", type=int, default=8192)
    serve.add_argument("--max-num-seqs", type=int, default=256)
    serve.add_argument("--kv-tokens", type=int, default=400_000, help="size of the KV cache in tokens")
    serve.add_argument("--prefill-seconds-per-token", type=float, default=0.0002)
    serve.add_argument("--step-seconds", type=float, default=0.02)
    serve.add_argument("--step-seconds-per-sequence", type=float, default=0.0001)
    serve.add_argument("--jitter", type=float, default=0.05, help="jitter as a share of a step's time")
    serve.add_argument(
        "--shutdown-timeout",
        type=int,
        default=30,
        help="seconds that running requests may take after SIGTERM",
    )
    serve.add_argument(
        "--store-responses",
        action="store_true",
        help="keep responses in memory, as vLLM does with VLLM_ENABLE_RESPONSES_API_STORE=1",
    )
    serve.add_argument("--otlp-traces-endpoint", help="OTLP/HTTP URL for spans")
    serve.set_defaults(run=_serve)
    fault = commands.add_parser("fault", help="set or clear faults of a simulator on this machine")
    fault.add_argument("--port", type=int, required=True, help="control port of the simulator")
    fault.add_argument("fault", help='JSON such as {"kind": "slow", "factor": 4}, or the word clear')
    fault.set_defaults(run=_fault)
    dcgm = commands.add_parser("dcgm", help="serve the simulators' GPUs like dcgm-exporter")
    dcgm.add_argument("--port", type=int, required=True)
    dcgm.add_argument("--engine", action="append", required=True, help="URL of a simulator; may repeat")
    dcgm.set_defaults(run=_dcgm)
    return parser


if __name__ == "__main__":
    sys.exit(main())
