"""Stops an edge without cutting an answer. Standard library only; needs no shell and no other program."""

import http.client
import json
import sys
import time


def drain(host: str, port: int, settle_seconds: float, limit_seconds: float) -> int:
    """Run the stop order against the admin interface of an Envoy; return 0 once it serves nobody.

    First the health check fails, so that load balancers look elsewhere; after ``settle_seconds`` the
    inbound listener closes while open requests go on; then it waits until none is active. The telemetry
    listener answers until Envoy itself is stopped. Returns 1 when ``limit_seconds`` were not enough, and
    0 at once when there is no Envoy to stop.
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
    while True:
        try:
            active = _active_requests(host, port)
        except OSError:
            _say("envoy_is_gone")
            return 0
        if active == 0:
            _say("drained")
            return 0
        if time.monotonic() > deadline:
            _say("out_of_time", active_requests=active)
            return 1
        time.sleep(0.1)


def _active_requests(host: str, port: int) -> int:
    pattern = "^http\\.edge\\.downstream_rq_active$"
    text = _ask(host, port, "GET", f"/stats?filter={pattern}")
    return int(text.rsplit(":", 1)[1]) if ":" in text else 0


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
