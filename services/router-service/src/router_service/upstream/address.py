"""The address of a backend, parsed once per URL. Must not depend on pools, rules or connections."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """One backend's address.

    ``authority`` is the value of the ``Host`` header: an IPv6 literal keeps its brackets, a default
    port is left out. ``prefix`` is the URL's path without a trailing slash, put before every path.
    """

    host: str
    port: int
    tls: bool
    authority: bytes
    prefix: bytes

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse ``http(s)://host[:port][/prefix]``.

        Raises:
            ValueError: another scheme, no host, or a port out of range.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an http(s) URL with a host")
        tls = parts.scheme == "https"
        default = 443 if tls else 80
        port = parts.port or default
        host = parts.hostname
        shown = f"[{host}]" if ":" in host else host
        if port != default:
            shown = f"{shown}:{port}"
        return cls(host, port, tls, shown.encode("ascii"), parts.path.rstrip("/").encode("ascii"))
