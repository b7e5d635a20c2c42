"""Checks that the keys of `redis` fit together. Works on unchecked data."""

from platform_contracts.yaml_document import Document
from router_service.config.unchecked import at


def check_redis(main: Document) -> None:
    """Report a user without a password, and authorities for a connection without TLS."""
    if at(main.data, "redis", "user") is not None and at(main.data, "redis", "password_file") is None:
        main.problem(
            ("redis", "user"),
            "has no effect without a password; add password_file, or remove user",
        )
    url = at(main.data, "redis", "url")
    if (
        at(main.data, "redis", "ca_file") is not None
        and isinstance(url, str)
        and not url.startswith("rediss:")
    ):
        main.problem(
            ("redis", "ca_file"), "has no effect without TLS; begin url with rediss://, or remove ca_file"
        )
