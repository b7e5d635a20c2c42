"""Formats the result of `why-ttft` as text and as JSON. Computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from observability.why_ttft.causes import Cause
from observability.why_ttft.changes import Change, same_minute
from observability.why_ttft.contributions import Contribution, Window
from observability.why_ttft.hanging import Hanging
from observability.why_ttft.spells import clock

LEAST_SHARE = 0.05
LEAST_SECONDS = 0.001
"""The sentence omits causes below this share of the change or below this duration."""

LEAST_SHOWN_SECONDS = 0.00005


def sentence(
    what: str, before: Window, after: Window, found: Sequence[Cause], noise: float | None = None
) -> str:
    """Return the change in one sentence, with every cause above :data:`LEAST_SHARE` and :data:`LEAST_SECONDS`.

    For a change within ``noise`` (seconds; None: unknown) the sentence reports normal variation and no cause.
    """
    old, new = before.mean_seconds, after.mean_seconds
    assert old is not None
    assert new is not None
    change = new - old
    head = f"{what} {change * 1000:+.0f} ms ({old * 1000:.0f} -> {new * 1000:.0f} ms)"
    if noise is not None and abs(change) <= noise:
        return f"{head}: within normal variation ({noise * 1000:.0f} ms)"
    least = max(abs(change) * LEAST_SHARE, LEAST_SECONDS)
    parts = [f"{cause.words} {cause.seconds * 1000:+.0f}" for cause in found if abs(cause.seconds) >= least]
    told = ", ".join(parts) or "no part changed by a millisecond"
    return f"{head}: {told}"


def table(found: Sequence[Cause]) -> str:
    """Return one row for each cause with its milliseconds, and their sum. Causes that round to 0.0 share one row."""
    told = [cause for cause in found if abs(cause.seconds) >= LEAST_SHOWN_SECONDS]
    rows = [f"{cause.seconds * 1000:>+10.1f} ms  {cause.words}  [{_kinds(cause)}]" for cause in told]
    if len(told) < len(found):
        rest = sum(cause.seconds for cause in found) - sum(cause.seconds for cause in told)
        rows.append(f"{rest * 1000:>+10.1f} ms  {len(found) - len(told)} others")
    total = sum(cause.seconds for cause in found)
    return "\n".join([*rows, f"{total * 1000:>+10.1f} ms  total"])


def hanging_text(hanging: Sequence[Hanging], changes: Sequence[Change]) -> str:
    """Return one line for each group of requests without a first token, with changes of the same minute."""
    lines = []
    for one in hanging:
        lines.append(f"{one.words}, {one.when}")
        lines += [f"    in the same minute: {change.words}" for change in same_minute(one.since, changes)]
    return "\n".join(lines)


def changes_text(changes: Sequence[Change]) -> str:
    """Return one line for each change with its time (UTC), or one line if there is none."""
    if not changes:
        return "no change of configuration, processes, pools, breakers or alerts in the window or the 5 minutes before"
    head = "changes in the window and the 5 minutes before (UTC):"
    return "\n".join([head, *(f"  {clock(change.at)}  {change.words}" for change in changes)])


def _kinds(cause: Cause) -> str:
    """Return the ledger parts of a cause, or the kind of mix that changed."""
    names = dict.fromkeys(part.name if part.kind == "slower" else f"mix: {part.name}" for part in cause.parts)
    return ", ".join(names)


def as_json(
    before: Window,
    after: Window,
    found: Sequence[Cause],
    parts: Sequence[Contribution],
    noise: float | None = None,
) -> Mapping[str, Any]:
    """Return the comparison as a JSON document; all times are seconds.

    ``contributions`` lists the ledger parts before grouping. ``changed`` is false if the change is within
    ``noise_seconds``.
    """
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
