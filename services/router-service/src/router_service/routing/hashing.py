"""Stable hashes: the same on every replica and after every restart (Python's ``hash`` is neither)."""

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

_MASK = (1 << 64) - 1
_SPAN = float(1 << 64)


def digest(*parts: str) -> str:
    """Return 16 hex digits that stand for ``parts``; their borders count."""
    return blake2b("\x00".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def unit(*parts: str) -> float:
    """Return a number in [0, 1) that is spread evenly over different ``parts``."""
    return int(digest(*parts), 16) / _SPAN


@lru_cache(maxsize=8192)
def number(text: str) -> int:
    """Return 64 bits that stand for ``text``."""
    return int(digest(text), 16)


def rendezvous(key: str, names: Iterable[str]) -> list[float]:
    """Return the weight in [0, 1) of each node for ``key`` (highest random weight hashing).

    Removing a node moves only its own keys; adding one moves 1/N of them (Thaler and Ravishankar, 1998).
    Two multiplications mix the numbers of key and node: a digest for each pair would cost five times as much.
    """
    seed = number(key)
    found = []
    for name in names:
        mixed = (seed ^ number(name)) * 0x9E3779B97F4A7C15 & _MASK
        mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _MASK
        found.append((mixed ^ mixed >> 32) / _SPAN)
    return found
