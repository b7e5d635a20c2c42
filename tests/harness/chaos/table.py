"""The table of the chaos suite: one row per fault, with what clients saw and what the platform said."""

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
    """One fault. Times in words, because some faults are never to be detected."""

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


def row_of(
    fault: str,
    verified: str,
    answers: Sequence[Answer],
    *,
    resumed: int = 0,
    detect: float | None = None,
    recover: float | None = None,
    verdict: str = "none",
    alerts: Sequence[str] = (),
) -> Row:
    """Count what clients saw."""
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
        detect="–" if detect is None else f"{detect:.1f} s",
        recover="–" if recover is None else f"{recover:.1f} s",
        verdict=verdict,
        alerts=", ".join(sorted(alerts)) or "none",
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
    """Write the table for people and for programs; return the former."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    path = folder / "table.md"
    path.write_text(as_markdown(rows) + "\n")
    return path
