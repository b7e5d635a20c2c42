"""Probes that the kubelet sends over the network: `httpGet` and `tcpSocket`."""

import contextlib
import http.client
import socket
import ssl
from collections.abc import Mapping
from typing import Any


def passes(probe: Mapping[str, Any], ip: str, ports: Mapping[str, int], seconds: float) -> bool:
    """Probe a container at ``ip`` once, with a timeout in seconds; ``ports`` are the pod's named ports."""
    ask = probe.get("httpGet") or probe["tcpSocket"]
    port = ports[ask["port"]] if isinstance(ask["port"], str) else ask["port"]
    try:
        if "tcpSocket" in probe:
            socket.create_connection((ip, port), seconds).close()
            return True
        connection = _connection(ask.get("scheme", "HTTP"), ip, port, seconds)
        with contextlib.closing(connection):
            connection.request("GET", ask["path"], headers={"user-agent": "kube-probe/1.35"})
            return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False


def _connection(scheme: str, ip: str, port: int, seconds: float) -> http.client.HTTPConnection:
    """Store the address without connecting.

    The kubelet connects by address, so it cannot verify the name in a certificate.
    """
    if scheme == "HTTP":
        return http.client.HTTPConnection(ip, port, timeout=seconds)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(ip, port, timeout=seconds, context=context)
