"""How parts of the platform log in to Redis: user, password and certificate authority. Must not know what they store.

Importing this module imports the Redis client, so programs that can run without Redis import it late.
"""

import contextlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from redis.asyncio.connection import ConnectionPool, SSLConnection, parse_url
from redis.exceptions import AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError

Pool = TypeVar("Pool", bound=ConnectionPool)


class BadAuthorities(Exception):
    """The file of certificate authorities cannot be used; the text says why."""


class Keys(NamedTuple):
    """The options that an error message names."""

    user: str
    password: str
    ca: str


ROUTER_KEYS = Keys("redis.user", "redis.password_file", "redis.ca_file")


@dataclass(frozen=True, slots=True)
class RedisLogin:
    """The address of Redis, the user and password for it, and the authorities that its certificate is checked with.

    ``user`` None is Redis's user `default`; ``authorities`` None are the system's.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    authorities: ssl.SSLContext | None = None
    keys: Keys = ROUTER_KEYS

    def pool(self, kind: type[Pool], **options: Any) -> Pool:
        """Return a pool of connections that log in; ``options`` are the pool's and the connections' own."""
        at: dict[str, Any] = dict(parse_url(self.url))
        login: dict[str, Any] = {"username": self.user, "password": self.password}
        # The client would build a context for each connection, which reads all authorities of the system in 25 ms.
        if at.get("connection_class") is SSLConnection:
            own_options = any(name.startswith("ssl_") for name in at)
            if self.authorities is not None or not own_options:
                trusted = self.authorities or ssl.create_default_context()
                at |= {"connection_class": _TrustingConnection, "trusted": trusted}
        return kind(**{name: value for name, value in login.items() if value}, **options, **at)

    def explain(self, error: BaseException) -> str:
        """Return an error of the client as text, with the options to check when the login itself failed."""
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, AuthenticationError | AuthenticationWrongNumberOfArgsError):
            user = (
                f'"{self.user}" of {self.keys.user}'
                if self.user
                else f"default ({self.keys.user} is not set)"
            )
            return f"{text}; Redis refused the user {user} with the password of {self.keys.password}; correct them"
        if isinstance(error, NoPermissionError):
            return f"{text}; permit it in the ACL of the user of {self.keys.user}"
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return f"{text}; check that {self.keys.ca} has the authority of the server's certificate"
        return text


def read_authorities(file: Path) -> ssl.SSLContext:
    """Return a context that trusts only the certificates of a PEM file.

    Raises:
        BadAuthorities: the file cannot be read or contains no certificate.
    """
    try:
        text = file.read_text("ascii")
    except UnicodeDecodeError:
        raise BadAuthorities("is not a PEM file") from None
    except OSError as error:
        raise BadAuthorities(f"cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # Trusts nobody yet, unlike the default context.
    with contextlib.suppress(ssl.SSLError, TypeError, ValueError):
        context.load_verify_locations(cadata=text)
    if not context.cert_store_stats()["x509_ca"]:
        raise BadAuthorities("contains no certificate of an authority in PEM form")
    return context


class _TrustingConnection(SSLConnection):
    """A TLS connection that checks the server's certificate with a context that all connections share."""

    def __init__(self, *, trusted: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = trusted
