"""The parts of the time to first token: names in records and metrics, display labels, and owners."""

from dataclasses import dataclass
from typing import Literal

Owner = Literal["edge", "router", "network", "engine", "nobody"]


@dataclass(frozen=True, slots=True)
class LedgerPart:
    """One part. ``label`` is the text in charts and `why-ttft`; ``owner`` is the component that takes the time."""

    name: str
    label: str
    owner: Owner


LEDGER_PARTS = (
    LedgerPart("edge", "edge", "edge"),
    LedgerPart("waiting_for_start", "engine start", "engine"),
    LedgerPart("router_queue", "router queue", "router"),
    LedgerPart("router", "router", "router"),
    LedgerPart("earlier_attempts", "failed attempts", "engine"),
    LedgerPart("connect", "connect", "network"),
    LedgerPart("network", "network", "network"),
    LedgerPart("engine_queue", "engine queue", "engine"),
    LedgerPart("prefill", "prefill", "engine"),
    LedgerPart("first_byte_wait", "engine until first byte", "engine"),
    LedgerPart("relay", "relay", "router"),
    LedgerPart("unexplained", "unexplained", "nobody"),
)
"""The parts in the order of a request. `first_byte_wait` replaces the engine's two parts if it reports no
figures.
"""

LABELS = {part.name: part.label for part in LEDGER_PARTS}


def parts_of(*owners: Owner) -> frozenset[str]:
    """Return the names of the parts that ``owners`` take."""
    return frozenset(part.name for part in LEDGER_PARTS if part.owner in owners)
