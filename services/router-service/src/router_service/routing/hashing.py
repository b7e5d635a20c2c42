"""Stable hashes: the same on every replica and after every restart (Python's ``hash`` is neither)."""

import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b

_MASK = (1 << 64) - 1
_FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
SPAN = float(1 << 64)
"""Every hash is below it."""


def digest(*parts: str) -> str:
    """Return 16 hex digits that identify ``parts``; the boundaries between parts matter."""
    return blake2b("\x00".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def unit(*parts: str) -> float:
    """Return a number in [0, 1) that is spread evenly over different ``parts``."""
    return int(digest(*parts), 16) / SPAN


@lru_cache(maxsize=8192)
def number(text: str) -> int:
    """Return 64 bits that identify ``text``."""
    return int(digest(text), 16)


def rendezvous(key: str, names: Iterable[str]) -> list[float]:
    """Return the weight in [0, 1) of each node for ``key`` (highest random weight hashing).

    Removing a node moves only its own keys; adding one moves 1/N of them (Thaler and Ravishankar, 1998).
    Two multiplications mix the numbers of key and node: a digest for each pair would cost five times as much.
    """
    seed = number(key)
    found = []
    for name in names:
        mixed = (seed ^ number(name)) * _FIRST & _MASK
        mixed = (mixed ^ mixed >> 32) * _SECOND & _MASK
        found.append((mixed ^ mixed >> 32) / SPAN)
    return found


class Rendezvous:
    """The same weights as :func:`rendezvous`, times `SPAN`, for many nodes that stay.

    All numbers are lanes of one integer, so that one multiplication mixes all of them: 1,000 nodes cost about as much
    as 100 one by one.
    """

    __slots__ = ("_bytes", "_lanes", "_mask", "_ones")

    def __init__(self, names: Sequence[str]) -> None:
        lane = 16  # bytes: the product of two 64-bit numbers fits
        self._bytes = lane * len(names)
        self._lanes = int.from_bytes(
            b"".join(number(name).to_bytes(lane, "little") for name in names), "little"
        )
        self._ones = int.from_bytes((1).to_bytes(lane, "little") * len(names), "little")
        self._mask = self._ones * _MASK

    def weights(self, key: str) -> list[int]:
        """Return the weight in [0, 2**64) of each node for ``key``, in the order of the names."""
        mask = self._mask
        mixed = (self._lanes ^ number(key) * self._ones) * _FIRST & mask
        mixed = ((mixed ^ mixed >> 32) & mask) * _SECOND & mask
        mixed ^= mixed >> 32
        view = memoryview(mixed.to_bytes(self._bytes, "little")).cast("Q")
        found: list[int] = view[::2].tolist()
        return found if sys.byteorder == "little" else [_swapped(weight) for weight in found]


def _swapped(weight: int) -> int:
    return int.from_bytes(weight.to_bytes(8, "little"), "big")
