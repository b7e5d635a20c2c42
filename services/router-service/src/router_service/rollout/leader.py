"""Keeps one writer of the weights file: a lock in Redis, or a lock on a file where no Redis is configured."""

import fcntl
import os
import socket
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.exceptions import RedisError

from platform_contracts.redis_login import RedisLogin

KEY = "llm:rollout:leader"
LEASE_SECONDS = 15.0
"""A leader that cannot renew for this long has lost the lock; another controller takes over after at most this time."""

_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) else return 0 end"
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


class Leader(Protocol):
    """The lock that lets one controller write the weights file.

    ``problem`` says why the lock cannot be requested, None if it can.
    """

    problem: str | None

    async def keep(self) -> bool:
        """Take or renew the lock; return whether this controller has it."""

    def held(self) -> bool:
        """Return whether the lock is certainly still this controller's."""

    async def close(self) -> None:
        """Release the lock."""


class RedisLeader:
    """A lock in Redis that expires. ``clock`` returns seconds and never goes back."""

    def __init__(self, login: RedisLogin, timeout_seconds: float, clock: Callable[[], float]) -> None:
        self.problem: str | None = None
        self._clock = clock
        self._login = login
        self._token = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        self._until = float("-inf")
        pool = login.pool(
            redis.ConnectionPool,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            decode_responses=True,
            retry=None,
        )
        self._redis = redis.Redis.from_pool(pool)

    async def keep(self) -> bool:
        """Take or renew the lock. While Redis does not answer, the lock lasts until its lease ends."""
        asked = self._clock()  # Before the call: the lease begins no earlier than this.
        milliseconds = int(LEASE_SECONDS * 1000)
        try:
            taken = await self._redis.set(KEY, self._token, nx=True, px=milliseconds)
            if not taken:
                taken = await self._script(_RENEW, milliseconds)
        except (RedisError, OSError, TimeoutError) as error:
            said = self._login.explain(error)
            self.problem = f"{_without_user(self._login.url)}: {said}; no controller decides without the lock"
            return self.held()
        self.problem = None
        self._until = asked + LEASE_SECONDS if taken else float("-inf")
        return self.held()

    def held(self) -> bool:
        # A fifth of the lease remains for the write that follows.
        return self._clock() < self._until - LEASE_SECONDS / 5

    async def close(self) -> None:
        try:
            if self.held():
                await self._script(_RELEASE, 0)
        except (RedisError, OSError, TimeoutError):
            pass  # The lock expires by itself.
        await self._redis.aclose()

    async def _script(self, script: str, argument: int) -> bool:
        return bool(
            await cast(Awaitable[object], self._redis.eval(script, 1, KEY, self._token, str(argument)))
        )


class FileLeader:
    """A lock on a file next to the weights file, for controllers of one machine. It lasts until the process ends.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.problem: str | None = None
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        self._locked = False

    async def keep(self) -> bool:
        """Take the lock if no other process has it."""
        if not self._locked:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            self._locked = True
        return self.held()

    def held(self) -> bool:
        """Return whether the locked file is still the one at the path: a deleted one can be locked twice."""
        try:
            return self._locked and os.path.samestat(os.fstat(self._file), self._path.stat())
        except OSError:
            return False

    async def close(self) -> None:
        os.close(self._file)
        self._locked = False


def _without_user(url: str) -> str:
    """Return the address of a URL that may contain a password."""
    return urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()
