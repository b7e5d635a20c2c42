"""Stops an edge without cutting responses. Needs no third-party package, no shell and no other program."""

import http.client
import sys
import time

from platform_contracts.log_lines import log_line


def drain(host: str, port: int, settle_seconds: float, idle_seconds: float, limit_seconds: float) -> int:
    """Drain an Envoy through its admin interface; return 0 once it has no active request.

    First the health check fails, so that load balancers choose other replicas. After ``settle_seconds`` the
    inbound listener begins its graceful drain: it still serves requests and closes their connections, and it
    closes after Envoy's drain time. Then wait until no request is active, and at most ``idle_seconds`` for idle
    connections to close. The telemetry listener responds until Envoy itself is stopped. Returns 1 if
    ``limit_seconds`` were not enough, and 0 at once if no Envoy runs.
    """
    deadline = time.monotonic() + limit_seconds
    try:
        _ask(host, port, "POST", "/healthcheck/fail")
    except OSError:
        _say("nothing_to_drain")
        return 0
    _say("health_check_fails", settle_seconds=settle_seconds)
    time.sleep(min(settle_seconds, limit_seconds))
    _ask(host, port, "POST", "/drain_listeners?graceful&skip_exit&inboundonly")
    _say("listener_drains")
    idle_since: float | None = None
    while True:
        try:
            requests = _gauge(host, port, "downstream_rq_active")
            connections = _gauge(host, port, "downstream_cx_active")
        except OSError:
            _say("envoy_is_gone")
            return 0
        now = time.monotonic()
        idle_since = None if requests else idle_since or now
        if idle_since is not None and (connections == 0 or now - idle_since >= idle_seconds):
            _say("drained", idle_connections=connections)
            return 0
        if now > deadline:
            _say("out_of_time", active_requests=requests)
            return 1
        time.sleep(0.1)


def _gauge(host: str, port: int, name: str) -> int:
    text = _ask(host, port, "GET", f"/stats?filter=^http\\.edge\\.{name}$")
    if ":" not in text:
        raise OSError(f"Envoy shows no {name}")
    return int(text.rsplit(":", 1)[1])


def _ask(host: str, port: int, method: str, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        if answer.status != 200:
            raise OSError(f"{method} {path} answered {answer.status}")
        return text
    finally:
        connection.close()


def _say(event: str, **fields: object) -> None:
    print(log_line("edge-gateway", "info", event, **fields), file=sys.stderr, flush=True)
