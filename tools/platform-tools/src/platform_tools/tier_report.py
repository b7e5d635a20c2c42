"""The result of a run of the test tiers, read from pytest's JUnit files. Runs no test."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SHOWN_SKIPS = 20
SECOND_LOOKS = 3
"""More failures than this in one tier are a break, not a busy machine: nothing is run again."""


@dataclass
class Tier:
    """One tier's result. ``not_run`` is the reason if the tier was not started.

    ``unstable`` names the tests that failed in the tier and passed when run again alone; they count as
    passed, and the report names them. ``crashed``: pytest itself failed, so its counts are incomplete.
    """

    name: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    skip_reasons: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)
    crashed: bool = False
    not_run: str | None = None


def read_junit(tier: Tier, path: Path, exit_code: int) -> Tier:
    """Fill a tier from its JUnit file; a run that ended without one counts as one failure.

    A crash of pytest itself (exit code 2, 3 or 4) is a failure even if every finished test passed.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        tier.failed += 1
        tier.crashed = True
        tier.failures.append(f"pytest wrote no report (exit {exit_code})")
        return tier
    for case in root.iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            tier.failed += 1
            tier.failures.append(name)
        elif skip is not None:
            tier.skipped += 1
            tier.skip_reasons[str(skip.get("message") or "no reason given")] += 1
        else:
            tier.passed += 1
    if exit_code not in (0, 1, 5) and not tier.failures:
        tier.failed += 1
        tier.failures.append(f"pytest itself ended with exit code {exit_code}")
    tier.crashed = exit_code not in (0, 1, 5)
    return tier


def may_be_looked_at_again(tier: Tier) -> bool:
    """Return whether so few tests failed that a busy machine may be the reason."""
    return not tier.crashed and 0 < tier.failed <= SECOND_LOOKS


def merge_second_look(tier: Tier, again: Tier) -> None:
    """Count tests that passed the second time as passed and unstable; every other failure remains.

    The second run counts only if it is complete and ran exactly the failed tests.
    """
    still = set(again.failures)
    if again.crashed or again.passed + again.failed != tier.failed or not still <= set(tier.failures):
        return
    tier.unstable = [name for name in tier.failures if name not in still]
    tier.failures = [name for name in tier.failures if name in still]
    tier.passed += len(tier.unstable)
    tier.failed = len(tier.failures)


def summary(tiers: Sequence[Tier], left_out: Sequence[str]) -> list[str]:
    """Return the closing lines: each tier, what was not run and why, and the sum as the last line."""
    lines = ["", "tier          seconds  passed  failed  skipped"]
    for tier in tiers:
        if tier.not_run is None:
            lines.append(
                f"{tier.name:12} {tier.seconds:8.1f} {tier.passed:7} {tier.failed:7} {tier.skipped:8}"
            )
        else:
            lines.append(f"{tier.name:12}  not run")
    failures = [f"  {tier.name}: {name}" for tier in tiers for name in tier.failures]
    if failures:
        lines += ["", "failed:", *failures]
    unstable = [f"  {tier.name}: {name}" for tier in tiers for name in tier.unstable]
    if unstable:
        lines += ["", "unstable (failed among the others, passed when run again alone):", *unstable]
    missing = [f"  {tier.name}: {tier.not_run}" for tier in tiers if tier.not_run is not None]
    for tier in tiers:
        for reason, count in tier.skip_reasons.most_common(SHOWN_SKIPS):
            missing.append(f"  {tier.name}: {count} skipped: {reason}")
    missing += [f"  {reason}" for reason in left_out]
    lines += ["", "not run, and why:", *(missing or ["  everything was run"])]
    passed, failed, skipped = (
        sum(getattr(tier, kind) for tier in tiers) for kind in ("passed", "failed", "skipped")
    )
    return [*lines, "", f"{passed} passed, {failed} failed, {skipped} skipped"]


def exit_code(tiers: Sequence[Tier], *, every_tier_must_run: bool) -> int:
    """Return 0 only if a test ran, none failed and, if required, no tier is missing."""
    ran = [tier for tier in tiers if tier.not_run is None]
    if any(tier.failed for tier in tiers) or not any(tier.passed for tier in ran):
        return 1
    return 1 if every_tier_must_run and len(ran) < len(tiers) else 0
