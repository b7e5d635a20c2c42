"""Reads the files that log in to Redis. Apart from `load`, so that a configuration is checked without its secrets."""

from pathlib import Path
from typing import TYPE_CHECKING

from platform_contracts.yaml_document import Problem
from router_service.config.load import BadConfig
from router_service.config.model import Redis

if TYPE_CHECKING:
    from platform_contracts.redis_login import RedisLogin


def redis_login(path: Path, section: Redis) -> "RedisLogin":
    """Return how to log in to the Redis of the configuration at ``path``.

    Raises:
        BadConfig: the password file or the file of authorities cannot be used.
    """
    # Imports the Redis client.
    from platform_contracts.redis_login import BadAuthorities, RedisLogin, read_authorities

    authorities = None
    if section.ca_file is not None:
        file = path.parent / section.ca_file
        try:
            authorities = read_authorities(file)
        except BadAuthorities as error:
            remedy = "redis.ca_file needs the PEM certificates of the authorities of Redis"
            raise BadConfig([Problem(str(file), 1, 1, "", f"{error}; {remedy}")]) from error
    return RedisLogin(section.url, section.user, _password(path, section), authorities)


def _password(path: Path, section: Redis) -> str | None:
    if section.password_file is None:
        return None
    file = path.parent / section.password_file
    remedy = "write the password of Redis into it, or leave redis.password_file out"
    try:
        password = file.read_text().strip()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}; {remedy}"
    except UnicodeDecodeError:
        problem = f"is not text; {remedy}"
    else:
        if password:
            return password
        problem = f"is empty; {remedy}"
    raise BadConfig([Problem(str(file), 1, 1, "", problem)])
