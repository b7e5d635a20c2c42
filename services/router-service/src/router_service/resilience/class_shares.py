"""Counts each class's running requests in a pool and keeps slots for each class. Must not know the queue."""

from collections.abc import Iterable, Mapping


class ClassShares:
    """The running requests of each class in one pool, and the slots that each class keeps.

    A class with a share keeps that part of the pool's slots, at least one. Other classes may use its free slots only
    after it has requested none for ``lend_after`` seconds. It then gets them back as the requests in them end.
    Classes without a share use what is left. ``started`` counts the requests of each class that were sent.
    """

    __slots__ = ("_asked_at", "lend_after", "running", "shares", "started")

    def __init__(self, shares: Mapping[str, float], lend_after: float) -> None:
        self.shares = shares
        self.lend_after = lend_after
        self.running: dict[str, int] = {}
        self.started: dict[str, int] = {}
        self._asked_at: dict[str, float] = {}

    def reconfigure(self, shares: Mapping[str, float], lend_after: float) -> None:
        """Apply new shares; running requests stay counted."""
        self.shares, self.lend_after = shares, lend_after

    def asks(self, name: str, now: float) -> None:
        """Record that a request of the class needs a slot at ``now`` (seconds)."""
        if name in self.shares:
            self._asked_at[name] = now

    def begin(self, name: str) -> None:
        """Count a request in."""
        self.running[name] = self.running.get(name, 0) + 1

    def count_start(self, name: str) -> None:
        """Count a request of the class that was sent to a backend."""
        self.started[name] = self.started.get(name, 0) + 1

    def end(self, name: str) -> None:
        """Count a request out. Requests that began before classes were configured are ignored."""
        left = self.running.get(name, 0) - 1
        if left > 0:
            self.running[name] = left
        else:
            self.running.pop(name, None)

    def kept(self, name: str, slots: int) -> int:
        """Return how many of the pool's ``slots`` the class keeps."""
        share = self.shares.get(name, 0.0)
        return max(1, int(share * slots)) if share > 0 else 0

    def may_start(self, name: str, free: int, slots: int, now: float) -> bool:
        """Return whether a request of the class may take one of the ``free`` slots of the pool's ``slots``."""
        if free <= 0:
            return False
        if self.running.get(name, 0) < self.kept(name, slots):
            return True
        return free > sum(
            max(0, self.kept(other, slots) - self.running.get(other, 0))
            for other in self.shares
            if other != name and now - self._asked_at.get(other, float("-inf")) < self.lend_after
        )

    def in_turn(self, names: Iterable[str], slots: int) -> list[str]:
        """Return the classes in the order in which they get free slots.

        Classes below their kept slots come first. Within both groups the class comes first that uses the smallest
        part of what it keeps, and classes that keep nothing come last.
        """

        def used(name: str) -> tuple[bool, float, str]:
            running, kept = self.running.get(name, 0), self.kept(name, slots)
            return (running >= kept, running / kept if kept else float("inf"), name)

        return sorted(names, key=used)
