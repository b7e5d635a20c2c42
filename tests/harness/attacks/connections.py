"""Connections without a key that send nothing, half a head, the start of HTTP/2, or refused requests."""

import socket

OPENINGS = {
    "nothing": b"",
    "half a head": b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-a: ",
    "a preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "settings of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "a refused request": b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n",
    "a health check": b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
}


def is_open(client: socket.socket) -> bool:
    """Return whether the edge has not closed a connection."""
    try:
        while data := client.recv(65536):
            del data
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False
