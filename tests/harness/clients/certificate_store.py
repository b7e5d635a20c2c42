"""Reads the certificate store once a test process. A pytest plugin.

httpx reads it for each client and for each call without a client: 30 ms of CPU, which tests would spend at every poll.
"""

import functools
import os
import ssl

import httpx
import httpx._transports.default as transports


@functools.cache
def _usual(trust_env: bool, certificate_file: str | None, folder: str | None) -> ssl.SSLContext:
    """Return the context of the usual store. The two variables choose the store if ``trust_env``."""
    return httpx.create_ssl_context(trust_env=trust_env)


def _context(
    verify: ssl.SSLContext | str | bool = True, cert: object = None, trust_env: bool = True
) -> ssl.SSLContext:
    """Return httpx's context; the usual one is shared by all clients."""
    if verify is True and cert is None:
        return _usual(trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    return httpx.create_ssl_context(verify, cert, trust_env)  # type: ignore[arg-type]


transports.create_ssl_context = _context  # type: ignore[attr-defined]
