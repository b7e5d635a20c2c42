"""The result of `why-ttft` for two windows, shared by the command, the console and the MCP server."""

from dataclasses import asdict, dataclass, field

from observability.why_ttft.causes import Cause, causes
from observability.why_ttft.changes import LEAD_SECONDS, Change, read_changes
from observability.why_ttft.contributions import (
    Window,
    composition,
    composition_text,
    contributions,
    parts_by_backend,
)
from observability.why_ttft.hanging import Hanging, read_hanging
from observability.why_ttft.report import as_json, changes_text, hanging_text, sentence, table
from observability.why_ttft.windows import read_circumstances, read_noise, read_window, with_thinking
from platform_contracts.prometheus import Prometheus

ANSWER = "mean time to first answer token"
POPULATIONS = (("mean time to first token", ".*"), ("mean of the slow requests", "true"), (ANSWER, ".*"))
"""The decomposed means, with the value of the label `slow` that selects each. Quantiles would not add up.

The last one contains the reasoning, and is read only if there was any.
"""


@dataclass(frozen=True, slots=True)
class Windows:
    """The window in question and its baseline, in epoch seconds."""

    start: float
    end: float
    baseline_start: float
    baseline_end: float


@dataclass(slots=True)
class Answer:
    """The result: compared populations, populations without a baseline, requests without a first token, and changes."""

    compared: dict[str, tuple[Window, Window, list[Cause], float | None]] = field(default_factory=dict)
    alone: dict[str, Window] = field(default_factory=dict)
    hanging: list[Hanging] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """True if the window has neither a first token nor a hanging or failed request."""
        return not (self.compared or self.alone or self.hanging)


def read_answer(prometheus: Prometheus, windows: Windows, pool: str = ".+") -> Answer:
    """Read both windows of the pools that match the regular expression ``pool``.

    Raises:
        CannotSay: Prometheus does not respond, or refuses a query.
    """
    start, end = windows.start, windows.end
    baseline = (windows.baseline_start, windows.baseline_end)
    lead = start - LEAD_SECONDS
    answer = Answer(
        hanging=read_hanging(prometheus, lead, start, end), changes=read_changes(prometheus, lead, end)
    )
    around = (read_circumstances(prometheus, *baseline), read_circumstances(prometheus, start, end))
    for what, slow in POPULATIONS:
        before = read_window(prometheus, *baseline, pool, slow)
        after = read_window(prometheus, start, end, pool, slow)
        if what == ANSWER:
            before = with_thinking(prometheus, before, *baseline, pool)
            after = with_thinking(prometheus, after, start, end, pool)
            if not _thinks(before) and not _thinks(after):
                continue
        if before.requests and after.requests:
            found = causes(parts_by_backend(before, after), (before, after), around)
            selector = f'{{pool=~"{pool}",slow=~"{slow}"}}'
            noise = read_noise(prometheus, *baseline, selector, end - start, thinking=what == ANSWER)
            answer.compared[what] = (before, after, found, noise)
        elif after.requests:
            answer.alone[what] = after
    return answer


def _thinks(window: Window) -> bool:
    return any(parts.get("thinking") for parts in window.seconds.values())


def as_document(answer: Answer) -> dict[str, object]:
    """Return the answer as a JSON-ready document; all times are seconds."""
    compared = {
        what: as_json(before, after, found, contributions(before, after), noise)
        for what, (before, after, found, noise) in answer.compared.items()
    }
    alone = {
        what: {
            "mean_seconds": window.mean_seconds,
            "first_tokens": window.requests,
            "components": dict(composition(window)),
        }
        for what, window in answer.alone.items()
    }
    hanging = [asdict(one) for one in answer.hanging]
    return {
        "hanging": hanging,
        "changes": [{"at": one.at, "words": one.words} for one in answer.changes],
        **compared,
        **alone,
    }


def as_text(answer: Answer) -> str:
    """Return the answer as text: hanging requests, each comparison, changes."""
    blocks = [hanging_text(answer.hanging, answer.changes)] if answer.hanging else []
    if answer.empty:
        blocks.append("the window has no first token")
    for what, _ in POPULATIONS:
        if what in answer.compared:
            before, after, found, noise = answer.compared[what]
            blocks.append(f"{sentence(what, before, after, found, noise)}\n{table(found)}")
        elif what in answer.alone:
            blocks.append(composition_text(what, answer.alone[what]))
    blocks.append(changes_text(answer.changes))
    return "\n\n".join(blocks)
