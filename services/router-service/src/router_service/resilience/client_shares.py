"""Counts each client's running requests in a pool and limits a client to its share. Must not know the queue."""

from collections.abc import Callable

CONTENDED_SECONDS = 600.0
"""Time after a second client's last request for which the first one is limited to its share."""


class ClientShares:
    """The running requests of each client in one pool.

    A client that was alone in the pool for :data:`CONTENDED_SECONDS` may take every slot. As soon as two clients
    use the pool, each may take at most ``share`` of its slots, so that long responses of one client cannot take
    them all. ``running`` has an entry exactly for each client with a running request.
    """

    __slots__ = ("_last_at", "_last_client", "_other_at", "running", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self.running: dict[str, int] = {}
        self._last_client = ""
        self._last_at = self._other_at = float("-inf")

    def asks(self, client: str, now: float) -> bool:
        """Record that ``client`` requests a slot at ``now`` (seconds); return whether other clients use the pool."""
        if client != self._last_client:
            self._other_at = self._last_at
            self._last_client = client
        self._last_at = now
        return now - self._other_at <= CONTENDED_SECONDS

    def begin(self, client: str) -> None:
        """Count a request in."""
        self.running[client] = self.running.get(client, 0) + 1

    def end(self, client: str) -> None:
        """Count a request out. Requests that began before the pool was configured are ignored."""
        left = self.running.get(client, 0) - 1
        if left > 0:
            self.running[client] = left
        else:
            self.running.pop(client, None)

    def full(self, client: str, now: float, slots: Callable[[], int]) -> bool:
        """Return whether ``client`` has its share of the pool's ``slots``, which are counted only if needed.

        A share is at least one slot and, with two slots or more, leaves at least one to others.
        """
        running = self.running.get(client, 0)
        if not running or self.share >= 1.0:
            return False
        other_at = self._other_at if client == self._last_client else self._last_at
        if now - other_at > CONTENDED_SECONDS:
            return False
        total = slots()
        return running >= max(1, min(int(total * self.share), total - 1))
