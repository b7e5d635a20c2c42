"""Stops an edge without cutting an answer. Standard library only; needs no shell and no other program."""

import http.client
import json
import sys
import time


def drain(host: str, port: int, settle_seconds: float, idle_seconds: float, limit_seconds: float) -> int:
    """Run the stop order against the admin interface of an Envoy; return 0 once it serves nobody.

    First the health check fails, so that load balancers look elsewhere; after ``settle_seconds`` the
    inbound listener begins its graceful drain (who still comes is served and told to close; after Envoy's
    drain time the listener closes); then it waits until no request is active, and at most ``idle_seconds``
    for idle connections to go. The telemetry listener answers until Envoy itself is stopped. Returns 1 when
    ``limit_seconds`` were not enough, and 0 at once when there is no Envoy to stop.
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
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"time": now, "level": "info", "service": "edge-gateway", "event": event, **fields}
    print(json.dumps(line), file=sys.stderr, flush=True)
