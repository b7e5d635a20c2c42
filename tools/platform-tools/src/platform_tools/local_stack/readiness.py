"""Checks whether a part is ready, and returns the reason if not. Starts and stops nothing."""

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from platform_tools.local_stack.parts import Readiness, RedisPing, RouterReady, RouterUses

ASK_SECONDS = 2.0
CONFIG_RELOADED = "router_config_last_reload_successful"


def why_not_ready(ready: Readiness, client: httpx.Client) -> str | None:
    """Return None if the part is ready, else the reason in a few words."""
    if isinstance(ready, RedisPing):
        return _redis(ready.port)
    try:
        answer = client.get(ready.url, timeout=ASK_SECONDS)
    except httpx.ConnectError:
        return "nothing listens yet"
    except httpx.TimeoutException:
        return f"no answer within {ASK_SECONDS:.0f} s"
    except httpx.TransportError as error:
        return f"no valid response ({type(error).__name__})"
    if answer.status_code != 200:
        return f"answers {_said(answer)}"
    if isinstance(ready, RouterUses):
        return unused_engines(answer.json(), ready.engines)
    return pool_without_backend(answer.json()) if isinstance(ready, RouterReady) else None


def unused_engines(backends: Mapping[str, Any], engines: Sequence[str]) -> str | None:
    """Return which configured engines the router does not use, and why; None if there is none."""
    unused = {
        backend["name"]: backend["unusable"]
        for backend in backends["backends"]
        if backend["url"].rstrip("/") in engines and backend["unusable"]
    }
    return ", ".join(f"does not use {name} yet ({why})" for name, why in unused.items()) or None


def pool_without_backend(readyz: Mapping[str, Any]) -> str | None:
    """Return which pools of the router's /readyz have no backend, None if each has one."""
    usable = readyz.get("usable_backends") or {}
    empty = [pool for pool, count in usable.items() if not count]
    if empty or not usable:
        return f"no usable backend yet in pool {', '.join(empty) or '(none known)'}"
    return None


def refuses_its_files(metrics_url: str, client: httpx.Client) -> bool:
    """Return whether the router runs on its previous configuration because it rejects the files on disk."""
    try:
        answer = client.get(metrics_url, timeout=ASK_SECONDS)
    except httpx.TransportError:
        return False
    return any(line.split() == [CONFIG_RELOADED, "0.0"] for line in answer.text.splitlines())


def _said(answer: httpx.Response) -> str:
    """Return the status and, if the body contains them, the state and its evidence."""
    try:
        body = answer.json()
    except ValueError:
        return str(answer.status_code)
    if not isinstance(body, dict):
        return str(answer.status_code)
    evidence = body.get("evidence")
    words = [str(body.get("state") or "")]
    if isinstance(evidence, list):
        words.append("; ".join(str(item) for item in evidence[:2]))
    for key in ("reason", "detail", "message"):
        if isinstance(body.get(key), str):
            words.append(body[key])
    text = ", ".join(word for word in words if word)
    return f"{answer.status_code} ({text})" if text else str(answer.status_code)


def _redis(port: int) -> str | None:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ASK_SECONDS) as connection:
            connection.settimeout(ASK_SECONDS)
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except OSError:
        return "nothing listens yet"
    return None if answer.startswith(b"+PONG") else f"answers {answer[:40]!r} to PING"
