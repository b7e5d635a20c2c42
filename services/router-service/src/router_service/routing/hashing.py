"""Stable hashes: the same on every replica and after every restart (Python's ``hash`` is neither)."""

from hashlib import blake2b

_SPAN = float(1 << 64)


def digest(*parts: str) -> str:
    """Return 16 hex digits that stand for ``parts``; their borders count."""
    return blake2b("\x00".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def unit(*parts: str) -> float:
    """Return a number in [0, 1) that is spread evenly over different ``parts``."""
    return int(digest(*parts), 16) / _SPAN


def rendezvous(key: str, name: str) -> float:
    """Return the weight of node ``name`` for ``key`` (highest random weight hashing).

    Removing a node moves only its own keys; adding one moves 1/N of them (Thaler and Ravishankar, 1998).
    """
    return unit(key, name)
