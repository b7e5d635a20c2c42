"""`router-service compare-pools`: the ledgers of two pools part by part, from decision records.

Imported only by the command, because numpy takes memory that a router does not need.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from platform_contracts.bootstrap import Difference, Mean, Quantiles, Ratio, Sample, differences
from platform_contracts.ledger_parts import LEDGER_PARTS
from router_service.routing.vocabulary import Outcome

Kind = Literal["auto", "requests", "copies"]

LAST = 20_000
"""Latest records of each pool that are compared by default, which bounds memory and time."""

_BEFORE = frozenset({"edge"})
_BEFORE_COPIES = frozenset({"edge", "waiting_for_start", "router_queue"})
"""Parts that copies do not have, because they come from no edge and never wait."""

_FAILED = frozenset({Outcome.UPSTREAM_ERROR, Outcome.TIMEOUT, Outcome.REFUSED})


class NothingToCompare(Exception):
    """The records do not have both pools; the message names the missing records and the remedy."""


@dataclass(frozen=True, slots=True)
class Row:
    """The compared values of one record, in milliseconds."""

    request_id: str
    shadow_of: str
    outcome: str
    parts: Mapping[str, float | None]
    first_token: float | None
    gap: float | None
    completion: int | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Row":
        """Read a decision record.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: a field is missing or has another type.
        """
        tokens, decode = record["tokens"]["completion"], record.get("decode_ms")
        first = record.get("first_token_ms")
        return cls(
            record["request_id"],
            record.get("shadow_of", ""),
            record["outcome"],
            {
                name: None if value is None else float(value)
                for name, value in record["ttft_ledger_ms"].items()
            },
            None if first is None else float(first),
            decode / (tokens - 1) if decode is not None and tokens is not None and tokens > 1 else None,
            tokens,
        )


@dataclass(frozen=True)
class Comparison:
    """Pool ``b`` compared with pool ``a``. ``without`` names the parts that the time to first token excludes."""

    a: str
    b: str
    of_copies: bool
    counts: tuple[int, int]
    without: frozenset[str]
    found: list[Difference]


def compare_pools(
    records: Iterable[Mapping[str, Any] | None], a: str, b: str, kind: Kind = "auto", last: int = LAST
) -> Comparison:
    """Compare the latest ``last`` records of pool ``b`` with those of pool ``a``.

    ``copies``: the copies in ``b`` (shadow traffic) with the requests of ``a`` that they are copies of. ``requests``:
    clients' requests in both. ``auto``: copies if there are any.

    Raises:
        NothingToCompare: a pool has no such record.
    """
    requests: dict[str, deque[Row]] = {a: deque(maxlen=last), b: deque(maxlen=last)}
    copies: deque[Row] = deque(maxlen=last)
    for record in records:
        pool = None if record is None else record.get("pool")
        if record is None or not isinstance(pool, str) or pool not in requests:
            continue
        try:
            row = Row.of(record)
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
        if not row.shadow_of:
            requests[pool].append(row)
        elif pool == b:
            copies.append(row)
    originals = {row.request_id: row for row in requests[a]}
    paired = [row for row in copies if row.shadow_of in originals]
    if kind == "copies" or (kind == "auto" and paired):
        if not paired:
            raise NothingToCompare(
                f"no copy in pool {b} of a request in pool {a}; {_remedy(requests, len(copies))}"
            )
        return _compared(a, b, [originals[row.shadow_of] for row in paired], paired, of_copies=True)
    for pool, rows in requests.items():
        if not rows:
            raise NothingToCompare(f"no request of pool {pool}; {_remedy(requests, len(copies))}")
    return _compared(a, b, list(requests[a]), list(requests[b]), of_copies=False)


def _remedy(requests: Mapping[str, Sequence[Row]], copies: int) -> str:
    found = ", ".join(f"{len(rows)} requests of {pool}" for pool, rows in requests.items())
    return (
        f"the log has {found} and {copies} copies; give pools of the router's configuration, or a longer log"
    )


def _compared(a: str, b: str, of_a: Sequence[Row], of_b: Sequence[Row], *, of_copies: bool) -> Comparison:
    without = _BEFORE_COPIES if of_copies else _BEFORE
    found = differences(_sample(of_a, without), _sample(of_b, without))
    return Comparison(a, b, of_copies, (len(of_a), len(of_b)), without, found)


def _sample(rows: Sequence[Row], without: frozenset[str]) -> Sample:
    def known(values: Iterable[float | None]) -> tuple[list[float], list[int]]:
        pairs = [(value, index) for index, value in enumerate(values) if value is not None]
        return [value for value, _ in pairs], [index for _, index in pairs]

    def first(row: Row) -> float | None:
        if row.first_token is None:
            return None
        return row.first_token - sum(row.parts.get(part) or 0.0 for part in without)

    def share(name: str, hits: frozenset[str], left_out: frozenset[str]) -> Ratio:
        return Ratio(
            name, (row.outcome in hits for row in rows), (row.outcome not in left_out for row in rows)
        )

    parts = [part for part in LEDGER_PARTS if part.name not in without]
    no_fault = frozenset({Outcome.CANCELLED, Outcome.CLIENT_ERROR})
    return Sample(
        len(rows),
        [
            Quantiles({"first token p50 (ms)": 0.5, "first token p95 (ms)": 0.95}, *known(map(first, rows))),
            Mean("first token mean (ms)", *known(map(first, rows))),
            *(
                Mean(f"  {part.label} (ms)", *known(row.parts.get(part.name) for row in rows))
                for part in parts
            ),
            Quantiles({"gap p50 (ms)": 0.5, "gap p95 (ms)": 0.95}, *known(row.gap for row in rows)),
            Mean("completion tokens", *known(row.completion for row in rows)),
            share("errors (share)", _FAILED, no_fault),
            share("truncated (share)", frozenset({Outcome.TRUNCATED}), no_fault),
            share("client errors (share)", frozenset({Outcome.CLIENT_ERROR}), frozenset({Outcome.CANCELLED})),
        ],
    )


def as_text(found: Comparison) -> str:
    """Return the comparison for people."""
    count_a, count_b = found.counts
    what = f"{count_b} copies of them in {found.b}" if found.of_copies else f"{count_b} requests of {found.b}"
    width = max(12, len(found.a) + 2, len(found.b) + 2)
    lines = [
        f"{count_a} requests of {found.a}, {what}; first token without {', '.join(sorted(found.without))}",
        f"{'':<32}{found.a:>{width}}{found.b:>{width}}{'difference':>12}   95 % interval",
    ]
    for one in found.found:
        said = "" if one.real else "   (may be noise)"
        lines.append(
            f"{one.name:<32}{one.a:>{width}.3f}{one.b:>{width}.3f}{one.b - one.a:>+12.3f}"
            f"   [{one.low:+.3f}, {one.high:+.3f}]{said}"
        )
    return "\n".join(lines)


def as_json(found: Comparison) -> str:
    """Return the comparison as JSON."""
    return json.dumps(
        {
            "a": {"pool": found.a, "requests": found.counts[0]},
            "b": {"pool": found.b, "copies" if found.of_copies else "requests": found.counts[1]},
            "first_token_without": sorted(found.without),
            "differences": [
                {
                    "name": one.name.strip(),
                    "a": one.a,
                    "b": one.b,
                    "low": one.low,
                    "high": one.high,
                    "real": one.real,
                }
                for one in found.found
            ],
        },
        indent=2,
    )
