"""Token usage of single requests, read from the router's decision records."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SHADOW = "(shadow)"
"""Stands for the client of copies of requests: no client pays for them, and their engines are not idle."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One request that reached an engine. Token counts are None where the engine did not report them.

    ``began`` and ``ended`` are epoch seconds: the time that the answering engine had the request.
    """

    pool: str
    backend: str
    client: str
    model: str
    rule: str
    began: float
    ended: float
    prompt_tokens: int | None
    cached_tokens: int
    completion_tokens: int | None

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that the engine computed: all except those from its prefix cache."""
        return max((self.prompt_tokens or 0) - self.cached_tokens, 0)

    @property
    def day(self) -> str:
        """The UTC day on which the request ended, as YYYY-MM-DD."""
        return datetime.fromtimestamp(self.ended, UTC).date().isoformat()


def usages(lines: Iterable[str]) -> Iterator[Usage]:
    """Yield the usage in log lines. Other lines, and requests that reached no engine, are left out."""
    for line in lines:
        if '"ttft_ledger_ms"' not in line:
            continue
        try:
            record = json.loads(line)
            found = _usage(record)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if found is not None:
            yield found


def _usage(record: dict[str, Any]) -> Usage | None:
    attempts = record["attempts"]
    if not attempts or record["total_ms"] is None:
        return None
    began = datetime.fromisoformat(record["time"]).timestamp()
    ledger = record["ttft_ledger_ms"]
    # Time before the engine had the request does not count.
    before = sum(ledger.get(part) or 0.0 for part in _BEFORE_THE_ENGINE)
    tokens = record["tokens"]
    return Usage(
        pool=record["pool"],
        backend=attempts[-1]["backend"],
        client=SHADOW if "shadow_of" in record else record["client_id"] or "(no client)",
        model=record["model"],
        rule=record["rule"],
        began=began + min(before, record["total_ms"]) / 1e3,
        ended=began + record["total_ms"] / 1e3,
        prompt_tokens=tokens["prompt"],
        cached_tokens=tokens.get("cached") or 0,
        completion_tokens=tokens["completion"],
    )


_BEFORE_THE_ENGINE = (
    "waiting_for_start",
    "router_queue",
    "router",
    "earlier_attempts",
    "connect",
    "engine_queue",
)
