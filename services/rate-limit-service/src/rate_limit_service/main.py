"""The command `rate-limit-service`: opens and closes the ports and the store. Makes no decisions."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import structlog
from prometheus_client import CollectorRegistry, start_http_server

from edge_gateway.settings import BadSettings
from platform_contracts.log_lines import add_time, capture_library_log
from platform_contracts.redis_login import BadAuthorities, Keys, RedisLogin, read_authorities
from rate_limit_service.limits import WatchedLimits
from rate_limit_service.service import BudgetService, handler
from rate_limit_service.store import SWEEP_SECONDS, LocalBudgets, RedisBudgets, StoreUnavailable
from rate_limit_service.telemetry import Telemetry

STOP_SECONDS = 5.0
REFRESH_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM. Exit 0 after SIGTERM, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="rate-limit-service", description="Enforces shared rates and token budgets for the edge."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="Serve Envoy's rate limit API.")
    serve.add_argument(
        "--settings", type=Path, required=True, help="the edge's settings file (section budgets)"
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, help="instead of budgets.port")
    serve.add_argument("--metrics-port", type=int, help="instead of budgets.metrics_port")
    serve.add_argument("--redis-url", help="instead of budgets.redis_url")
    serve.add_argument(
        "--redis-password-file", type=Path, help="file with the password of Redis as its only line"
    )
    serve.add_argument("--redis-user", help="user of Redis's ACL; needs --redis-password-file")
    serve.add_argument(
        "--redis-ca-file",
        type=Path,
        help="PEM file of the authorities that may sign Redis's certificate, for rediss://",
    )
    options = parser.parse_args(arguments)
    _log_as_json()
    try:
        limits = WatchedLimits(options.settings)
        if limits.settings.budgets is None:
            raise BadSettings(f"{options.settings}: no section budgets: nothing to serve")
        login = _login(options, limits.settings.budgets.redis_url)
    except BadSettings as error:
        print(error, file=sys.stderr)
        return 2
    asyncio.run(_serve(options, limits, login))
    return 0


def _login(options: argparse.Namespace, configured: str) -> RedisLogin:
    """Return how to log in to Redis.

    Raises:
        BadSettings: a file cannot be used, or the options do not fit together.
    """
    url = options.redis_url or configured
    password = _password(options.redis_password_file)
    if options.redis_user and password is None:
        raise BadSettings("--redis-user: has no effect without a password; add --redis-password-file")
    authorities = None
    if options.redis_ca_file is not None:
        if not url.startswith("rediss:"):
            raise BadSettings("--redis-ca-file: has no effect without TLS; begin the URL with rediss://")
        try:
            authorities = read_authorities(options.redis_ca_file)
        except BadAuthorities as error:
            remedy = "--redis-ca-file needs the PEM certificates of the authorities of Redis"
            raise BadSettings(f"{options.redis_ca_file}: {error}; {remedy}") from None
    keys = Keys("--redis-user", "--redis-password-file", "--redis-ca-file")
    return RedisLogin(url, options.redis_user, password, authorities, keys)


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    remedy = "write the password of Redis into it, or leave --redis-password-file out"
    try:
        password = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{file}: {getattr(error, 'strerror', None) or 'not text'}; {remedy}") from None
    if not password:
        raise BadSettings(f"{file}: is empty; {remedy}")
    return password


async def _serve(options: argparse.Namespace, limits: WatchedLimits, login: RedisLogin) -> None:
    budgets = limits.settings.budgets
    assert budgets is not None
    registry = CollectorRegistry()
    # Shorter than the edge's own timeout, so that the edge receives "unavailable" instead of timing out.
    store = RedisBudgets(login, budgets.timeout_seconds * 0.8, budgets.reservation_seconds)
    local = LocalBudgets(budgets.unavailable_share) if budgets.when_unavailable == "admit" else None
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([handler(BudgetService(store, limits.of, Telemetry(registry), local))])
    port = options.port or budgets.port
    host = f"[{options.host}]" if ":" in options.host else options.host
    server.add_insecure_port(f"{host}:{port}")
    metrics, _ = start_http_server(options.metrics_port or budgets.metrics_port, options.host, registry)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await server.start()
    structlog.get_logger().info("serving", port=port)
    sweeping = asyncio.create_task(_sweep(store))
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), REFRESH_SECONDS)
        limits.refresh()
    sweeping.cancel()
    await server.stop(STOP_SECONDS)
    await store.close()
    metrics.shutdown()


async def _sweep(store: RedisBudgets) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        # The calls of the edge report a store that does not reply.
        with contextlib.suppress(StoreUnavailable):
            await store.sweep()


def _log_as_json() -> None:
    capture_library_log("rate-limit-service")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            add_time,
            _name_the_service,
            structlog.processors.JSONRenderer(),
        ]
    )


def _name_the_service(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["service"] = "rate-limit-service"
    return event


if __name__ == "__main__":
    sys.exit(main())
