"""Why a mean changed between two windows, in parts that add up to the change exactly. Pure arithmetic.

A mean over requests changes for two kinds of reasons: the mix of requests changed (longer prompts, other
rules, other backends), or the same kind of request takes longer in some part of the path. Both are
separated by the symmetric shift-share identity, applied level by level:

    sum(w1 m1) - sum(w0 m0)  =  sum((w1 - w0) (m0 + m1) / 2)  +  sum((w0 + w1) / 2 (m1 - m0))
                                mix of this level                slower, within this level
"""

from collections import defaultdict
from dataclasses import dataclass, field

LEVELS = ("prompt_bucket", "rule", "affinity", "backend")
"""What a request's kind is, in the order in which mix is attributed: what was asked before where it went."""

OF_NO_KIND = frozenset({"earlier_attempts"})
"""Parts that say nothing about a kind of request: who answered in the end is not who let the others wait."""

Cell = tuple[str, ...]


@dataclass(slots=True)
class Window:
    """Exact sums of one window: first tokens and seconds per component, by kind of request (LEVELS)."""

    counts: dict[Cell, float] = field(default_factory=dict)
    seconds: dict[Cell, dict[str, float]] = field(default_factory=dict)

    @property
    def requests(self) -> float:
        """First tokens in this window."""
        return sum(self.counts.values())

    @property
    def mean_seconds(self) -> float | None:
        """Mean time to first token, None without any."""
        if not self.requests:
            return None
        return sum(sum(parts.values()) for parts in self.seconds.values()) / self.requests

    def mean_of(self, component: str) -> float:
        """Mean seconds of one component over all requests."""
        return sum(parts.get(component, 0.0) for parts in self.seconds.values()) / self.requests

    def without(self, components: frozenset[str]) -> "Window":
        """The same window less some components."""
        return Window(
            dict(self.counts),
            {
                cell: {name: seconds for name, seconds in parts.items() if name not in components}
                for cell, parts in self.seconds.items()
            },
        )


@dataclass(frozen=True, slots=True)
class Contribution:
    """One reason: ``seconds`` of the change. ``backend`` is where most of a slowdown happened."""

    name: str
    kind: str  # "mix" or "slower"
    seconds: float
    backend: str = ""


def contributions(before: Window, after: Window) -> list[Contribution]:
    """Return what changed, largest first, one entry per part; the seconds add up to the change of the mean.

    Raises:
        ValueError: one of the windows has no first token.
    """
    found = []
    by_component: dict[str, dict[str, float]] = defaultdict(dict)
    for part in parts_by_backend(before, after):
        if part.kind == "mix":
            found.append(part)
        else:
            by_component[part.name][part.backend] = part.seconds
    for component, backends in by_component.items():
        most = max(backends, key=lambda name: abs(backends[name]))
        found.append(Contribution(component, "slower", sum(backends.values()), most))
    return sorted(found, key=lambda c: -abs(c.seconds))


def parts_by_backend(before: Window, after: Window) -> list[Contribution]:
    """Return what changed with a slowdown told apart by backend; the seconds add up to the change of the mean.

    A kind of request that only one window has counts as mix: nobody can say whether it became slower.

    Raises:
        ValueError: one of the windows has no first token.
    """
    if not before.requests or not after.requests:
        raise ValueError("one of the windows has no first token; choose a longer one")
    mix: dict[str, float] = defaultdict(float)
    slower: dict[tuple[str, str], float] = defaultdict(float)
    of_no_kind = [
        Contribution(component, "slower", after.mean_of(component) - before.mean_of(component))
        for component in OF_NO_KIND
    ]
    _descend(before.without(OF_NO_KIND), after.without(OF_NO_KIND), (), 1.0, mix, slower)
    return [
        *of_no_kind,
        *(Contribution(level, "mix", seconds) for level, seconds in mix.items()),
        *(
            Contribution(component, "slower", seconds, backend)
            for (component, backend), seconds in slower.items()
        ),
    ]


def _descend(
    before: Window,
    after: Window,
    prefix: Cell,
    weight: float,
    mix: dict[str, float],
    slower: dict[tuple[str, str], float],
) -> None:
    """Split the change of the mean below ``prefix``, times ``weight``, into mix here and change further down."""
    depth = len(prefix)
    if depth == len(LEVELS):
        one, two = before.seconds.get(prefix, {}), after.seconds.get(prefix, {})
        for component in one.keys() | two.keys():
            change = (
                two.get(component, 0.0) / after.counts[prefix]
                - one.get(component, 0.0) / before.counts[prefix]
            )
            slower[(component, prefix[-1])] += weight * change
        return
    old, new = _level(before, prefix), _level(after, prefix)
    old_total, new_total = sum(n for n, _ in old.values()), sum(n for n, _ in new.values())
    old_mean = sum(s for _, s in old.values()) / old_total
    new_mean = sum(s for _, s in new.values()) / new_total
    middle = (old_mean + new_mean) / 2
    for value in old.keys() | new.keys():
        old_count, old_seconds = old.get(value, (0.0, 0.0))
        new_count, new_seconds = new.get(value, (0.0, 0.0))
        old_share, new_share = old_count / old_total, new_count / new_total
        here = [s / n for n, s in ((old_count, old_seconds), (new_count, new_seconds)) if n]
        # Measured from the middle, so that a share is blamed only for being away from the average request.
        mix[LEVELS[depth]] += weight * (new_share - old_share) * (sum(here) / len(here) - middle)
        if len(here) == 2:
            _descend(before, after, (*prefix, value), weight * (old_share + new_share) / 2, mix, slower)


def _level(window: Window, prefix: Cell) -> dict[str, tuple[float, float]]:
    """Count and seconds by the next label below ``prefix``."""
    found: dict[str, tuple[float, float]] = {}
    depth = len(prefix)
    for cell, count in window.counts.items():
        if cell[:depth] == prefix and count > 0:
            known, seconds = found.get(cell[depth], (0.0, 0.0))
            found[cell[depth]] = (known + count, seconds + sum(window.seconds.get(cell, {}).values()))
    return found


_WORDS = {
    ("mix", "prompt_bucket"): ("longer prompts", "shorter prompts"),
    ("mix", "rule"): ("requests under slower rules", "requests under quicker rules"),
    ("mix", "affinity"): ("sessions away from their backend", "sessions on their backend"),
    ("mix", "backend"): ("requests on slower backends", "requests on quicker backends"),
    ("slower", "edge"): ("edge", "edge"),
    ("slower", "router_queue"): ("router's line", "router's line"),
    ("slower", "router"): ("router", "router"),
    ("slower", "earlier_attempts"): ("failed attempts", "failed attempts"),
    ("slower", "connect"): ("connecting", "connecting"),
    ("slower", "network"): ("network to the backend", "network to the backend"),
    ("slower", "engine_queue"): ("engine queue", "engine queue"),
    ("slower", "prefill"): ("prefill", "prefill"),
    ("slower", "first_byte_wait"): ("engine until first byte", "engine until first byte"),
    ("slower", "relay"): ("relay", "relay"),
    ("slower", "unexplained"): ("unexplained", "unexplained"),
}


def words(contribution: Contribution) -> str:
    """A contribution in words."""
    known = _WORDS.get((contribution.kind, contribution.name), (contribution.name, contribution.name))
    text = known[contribution.seconds < 0]
    engine = contribution.kind == "slower" and contribution.name in (
        "engine_queue",
        "prefill",
        "first_byte_wait",
        "connect",
        "network",
    )
    return f"{text} ({contribution.backend})" if engine and contribution.backend else text


def composition(window: Window) -> list[tuple[str, float]]:
    """Mean seconds per component, largest first; they add up to the mean time to first token.

    Raises:
        ValueError: the window has no first token.
    """
    if not window.requests:
        raise ValueError("the window has no first token; choose a longer one")
    total: dict[str, float] = defaultdict(float)
    for parts in window.seconds.values():
        for component, seconds in parts.items():
            total[component] += seconds
    means = ((name, seconds / window.requests) for name, seconds in total.items())
    return sorted(means, key=lambda part: -part[1])


def composition_text(what: str, window: Window) -> str:
    """What a mean is made of, for the time when there is nothing to compare it with."""
    mean = window.mean_seconds
    assert mean is not None
    rows = [
        f"{seconds * 1000:>10.1f} ms  {words(Contribution(name, 'slower', seconds))}"
        for name, seconds in composition(window)
    ]
    head = f"{what} {mean * 1000:.0f} ms over {window.requests:.0f} first tokens; none before to compare with"
    return "\n".join([head, *rows])
