"""The result table of the chaos suite: one row per fault, with the clients' outcomes and the platform's report."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.chaos.load import Answer, Ending

HEADINGS = (
    ("fault", "fault"),
    ("verified", "verified how"),
    ("requests", "requests"),
    ("lost", "lost"),
    ("resumed", "resumed"),
    ("error_events", "error event"),
    ("refused", "refused or error status"),
    ("broken", "visibly broken"),
    ("detect", "detected after"),
    ("recover", "recovered after"),
    ("verdict", "verdict"),
    ("alerts", "alerts"),
)


@dataclass(frozen=True)
class Row:
    """One fault. Times are texts, because some faults must not be detected."""

    fault: str
    verified: str
    requests: int
    lost: int
    resumed: int
    error_events: int
    refused: int
    broken: int
    detect: str
    recover: str
    verdict: str
    alerts: str


@dataclass(frozen=True)
class Reported:
    """The platform's report of a fault: seconds until detection, verdict, alerts that fired."""

    after: float | None = None
    verdict: str = "none"
    alerts: Sequence[str] = ()


def row_of(
    fault: str,
    verified: str,
    answers: Sequence[Answer],
    reported: Reported,
    *,
    resumed: int = 0,
    recover: float | None = None,
) -> Row:
    """Count the clients' outcomes and add the platform's report. ``recover`` is in seconds."""
    endings = Counter(answer.ending for answer in answers)
    return Row(
        fault=fault,
        verified=verified,
        requests=len(answers),
        lost=endings[Ending.LOST],
        resumed=resumed,
        error_events=endings[Ending.ERROR_EVENT],
        refused=endings[Ending.REFUSED] + endings[Ending.ERROR],
        broken=endings[Ending.BROKEN],
        detect="–" if reported.after is None else f"{reported.after:.1f} s",
        recover="–" if recover is None else f"{recover:.1f} s",
        verdict=reported.verdict,
        alerts=", ".join(sorted(reported.alerts)) or "none",
    )


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| " + " | ".join(heading for _, heading in HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    for row in rows:
        values = asdict(row)
        lines.append("| " + " | ".join(str(values[name]) for name, _ in HEADINGS) + " |")
    return "\n".join(lines)


def keep(rows: Sequence[Row], folder: Path) -> Path:
    """Write the table as Markdown and as JSON; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    path = folder / "table.md"
    path.write_text(as_markdown(rows) + "\n")
    return path
