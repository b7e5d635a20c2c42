"""An answer of `why-ttft` as text and as JSON. Computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from observability.causes import Cause
from observability.contributions import Contribution, Window

LEAST_SHARE = 0.05
LEAST_SECONDS = 0.001
"""What a sentence leaves out: parts below a twentieth of the change, or below a millisecond."""

LEAST_SHOWN_SECONDS = 0.00005


def sentence(
    what: str, before: Window, after: Window, found: Sequence[Cause], noise: float | None = None
) -> str:
    """The change in one sentence, with every cause worth a twentieth of it and a millisecond.

    A change within ``noise`` (seconds; None: unknown) has no cause, and that is what is said.
    """
    old, new = before.mean_seconds, after.mean_seconds
    assert old is not None
    assert new is not None
    change = new - old
    head = f"{what} {change * 1000:+.0f} ms ({old * 1000:.0f} -> {new * 1000:.0f} ms)"
    if noise is not None and abs(change) <= noise:
        return f"{head}: nothing beyond what it varies by anyway ({noise * 1000:.0f} ms)"
    least = max(abs(change) * LEAST_SHARE, LEAST_SECONDS)
    parts = [f"{cause.words} {cause.seconds * 1000:+.0f}" for cause in found if abs(cause.seconds) >= least]
    told = ", ".join(parts) or "no part changed by a millisecond"
    return f"{head}: {told}"


def table(found: Sequence[Cause]) -> str:
    """Every cause with its milliseconds, and their sum; what rounds to nothing is one row."""
    told = [cause for cause in found if abs(cause.seconds) >= LEAST_SHOWN_SECONDS]
    rows = [f"{cause.seconds * 1000:>+10.1f} ms  {cause.words}  [{_kinds(cause)}]" for cause in told]
    if len(told) < len(found):
        rest = sum(cause.seconds for cause in found) - sum(cause.seconds for cause in told)
        rows.append(f"{rest * 1000:>+10.1f} ms  {len(found) - len(told)} others")
    total = sum(cause.seconds for cause in found)
    return "\n".join([*rows, f"{total * 1000:>+10.1f} ms  in all"])


def _kinds(cause: Cause) -> str:
    """The ledger's parts that a cause is made of, or the mix that changed."""
    names = dict.fromkeys(part.name if part.kind == "slower" else f"mix: {part.name}" for part in cause.parts)
    return ", ".join(names)


def as_json(
    before: Window,
    after: Window,
    found: Sequence[Cause],
    parts: Sequence[Contribution],
    noise: float | None = None,
) -> Mapping[str, Any]:
    """The same for machines; seconds. ``contributions`` are the ledger's parts as they are; ``changed`` is false
    when the change is within ``noise_seconds``."""
    assert before.mean_seconds is not None
    assert after.mean_seconds is not None
    return {
        "noise_seconds": noise,
        "changed": noise is None or abs(after.mean_seconds - before.mean_seconds) > noise,
        "before": {"mean_seconds": before.mean_seconds, "first_tokens": before.requests},
        "after": {"mean_seconds": after.mean_seconds, "first_tokens": after.requests},
        "causes": [
            {"name": c.name, "seconds": c.seconds, "backend": c.backend, "words": c.words} for c in found
        ],
        "contributions": [
            {"name": c.name, "kind": c.kind, "seconds": c.seconds, "backend": c.backend} for c in parts
        ],
    }
