"""Splits the change of a mean between two windows into parts that add up to it exactly. Pure arithmetic.

A mean over requests changes for two kinds of reasons: the mix of requests changed (longer prompts, different
rules, different backends), or the same kind of request takes longer in some part of the path. The symmetric
shift-share identity separates them, level by level:

    sum(w1 m1) - sum(w0 m0)  =  sum((w1 - w0) (m0 + m1) / 2)  +  sum((w0 + w1) / 2 (m1 - m0))
                                mix of this level                slower, within this level

Routers count the parts by kind of request, but not by backend: a fleet would multiply the series. By backend they
count first tokens and their whole time. The same identity over the backends then splits the engine's and network's
parts, all in the same proportions.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from platform_contracts.ledger_parts import parts_of

LEVELS = ("prompt_bucket", "rule", "affinity")
"""Labels that define the kind of a request, in the order in which mix is attributed: content before placement."""

OF_NO_KIND = frozenset({"earlier_attempts", "waiting_for_start"})
"""Parts that are not split by kind of request: a failed attempt was at a different backend than the label says, and a
wait for the first engine at none.
"""

_AT_A_BACKEND = parts_of("engine", "network") - OF_NO_KIND

Cell = tuple[str, ...]


@dataclass(slots=True)
class Window:
    """Exact sums of one window: first tokens and seconds per component, by kind of request (LEVELS).

    ``backends`` has first tokens and their seconds by backend.
    """

    counts: dict[Cell, float] = field(default_factory=dict)
    seconds: dict[Cell, dict[str, float]] = field(default_factory=dict)
    backends: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def requests(self) -> float:
        """First tokens in this window."""
        return sum(self.counts.values())

    @property
    def mean_seconds(self) -> float | None:
        """Mean time to first token in seconds, None if the window has no first token."""
        if not self.requests:
            return None
        return sum(sum(parts.values()) for parts in self.seconds.values()) / self.requests

    def mean_of(self, component: str) -> float:
        """Mean seconds of one component over all requests."""
        return sum(parts.get(component, 0.0) for parts in self.seconds.values()) / self.requests

    def without(self, components: frozenset[str]) -> "Window":
        """Return a copy of the window without ``components``."""
        return Window(
            dict(self.counts),
            {
                cell: {name: seconds for name, seconds in parts.items() if name not in components}
                for cell, parts in self.seconds.items()
            },
            self.backends,
        )


@dataclass(frozen=True, slots=True)
class Contribution:
    """One part of a change, in ``seconds``. ``backend`` has the largest share of a slowdown.

    ``gained`` is the affinity state of the requests that became more, for mix of the level `affinity`.
    """

    name: str
    kind: str  # "mix" or "slower"
    seconds: float
    backend: str = ""
    gained: str = ""


def contributions(before: Window, after: Window) -> list[Contribution]:
    """Return the parts of the change, largest first; their seconds add up to the change of the mean.

    Raises:
        ValueError: One of the windows has no first token.
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
    """Return the parts of the change, slowdowns split by backend; their seconds add up to the change of the mean.

    A kind of request in only one window counts as mix, because it has nothing to compare with.

    Raises:
        ValueError: One of the windows has no first token.
    """
    if not before.requests or not after.requests:
        raise ValueError("one of the windows has no first token; choose a longer one")
    mix: dict[tuple[str, str], float] = defaultdict(float)
    slower: dict[str, float] = defaultdict(float)
    of_no_kind = [
        Contribution(component, "slower", after.mean_of(component) - before.mean_of(component))
        for component in OF_NO_KIND
    ]
    _descend(before.without(OF_NO_KIND), after.without(OF_NO_KIND), (), 1.0, mix, slower)
    engines = {component: slower.pop(component) for component in _AT_A_BACKEND if component in slower}
    return [
        *of_no_kind,
        *(Contribution(level, "mix", seconds, gained=gained) for (level, gained), seconds in mix.items()),
        *(Contribution(component, "slower", seconds) for component, seconds in slower.items()),
        *_at_backends(engines, before.backends, after.backends),
    ]


Backends = dict[str, tuple[float, float]]


def _at_backends(engines: dict[str, float], before: Backends, after: Backends) -> Iterator[Contribution]:
    """Split the changed ``engines`` parts by backend; the parts' seconds keep their sum.

    A shift between backends explains at most the whole change of these parts, because the content of the requests
    was taken into account before.
    """
    shift, changes = _of_backends(before, after)
    whole = sum(engines.values())
    shift = max(0.0, min(shift, whole)) if whole > 0 else min(0.0, max(shift, whole))
    if shift:
        yield Contribution("backend", "mix", shift)
    for component, seconds in engines.items():
        rest = seconds - shift * seconds / whole if shift else seconds
        same = {name: change for name, change in changes.items() if change * rest > 0}
        total = sum(same.values())
        if not total:
            yield Contribution(component, "slower", rest)
        for name, change in same.items():
            yield Contribution(component, "slower", rest * change / total, name)


def _of_backends(before: Backends, after: Backends) -> tuple[float, dict[str, float]]:
    """Return the change of the mean by a shift between backends, and by each backend's own mean, in seconds."""
    old_total, new_total = (sum(count for count, _ in one.values()) for one in (before, after))
    if not old_total or not new_total:
        return 0.0, {}
    old_mean, new_mean = (
        sum(seconds for _, seconds in one.values()) / total
        for one, total in ((before, old_total), (after, new_total))
    )
    middle = (old_mean + new_mean) / 2
    shift, changes = 0.0, {}
    for name in before.keys() | after.keys():
        (old, old_seconds), (new, new_seconds) = before.get(name, (0.0, 0.0)), after.get(name, (0.0, 0.0))
        means = [seconds / count for count, seconds in ((old, old_seconds), (new, new_seconds)) if count]
        if not means:
            continue
        shift += (new / new_total - old / old_total) * (sum(means) / len(means) - middle)
        if len(means) == 2:
            changes[name] = (old / old_total + new / new_total) / 2 * (means[1] - means[0])
    return shift, changes


def _descend(
    before: Window,
    after: Window,
    prefix: Cell,
    weight: float,
    mix: dict[tuple[str, str], float],
    slower: dict[str, float],
) -> None:
    """Split the change of the mean below ``prefix``, times ``weight``, into mix at this level and deeper changes."""
    depth = len(prefix)
    if depth == len(LEVELS):
        one, two = before.seconds.get(prefix, {}), after.seconds.get(prefix, {})
        for component in one.keys() | two.keys():
            change = (
                two.get(component, 0.0) / after.counts[prefix]
                - one.get(component, 0.0) / before.counts[prefix]
            )
            slower[component] += weight * change
        return
    old, new = _level(before, prefix), _level(after, prefix)
    old_total, new_total = sum(n for n, _ in old.values()), sum(n for n, _ in new.values())
    old_mean = sum(s for _, s in old.values()) / old_total
    new_mean = sum(s for _, s in new.values()) / new_total
    middle = (old_mean + new_mean) / 2
    here_mix, gains = 0.0, {}
    for value in old.keys() | new.keys():
        old_count, old_seconds = old.get(value, (0.0, 0.0))
        new_count, new_seconds = new.get(value, (0.0, 0.0))
        old_share, new_share = old_count / old_total, new_count / new_total
        here = [s / n for n, s in ((old_count, old_seconds), (new_count, new_seconds)) if n]
        # Relative to the mean of both windows, so that a changed share counts only if it differs from the average.
        here_mix += weight * (new_share - old_share) * (sum(here) / len(here) - middle)
        if new_share > old_share:
            gains[value] = new_share - old_share
        if len(here) == 2:
            _descend(before, after, (*prefix, value), weight * (old_share + new_share) / 2, mix, slower)
    _attribute(LEVELS[depth], here_mix, gains, mix)


def _attribute(
    level: str, seconds: float, gains: dict[str, float], mix: dict[tuple[str, str], float]
) -> None:
    """Add a level's mix; that of affinity is split by the states that gained requests, in proportion to the gains."""
    if level != "affinity" or not gains:
        mix[level, ""] += seconds
        return
    whole = sum(gains.values())
    for state, gain in gains.items():
        mix[level, state] += seconds * gain / whole


def _level(window: Window, prefix: Cell) -> dict[str, tuple[float, float]]:
    """Return count and seconds by the next label below ``prefix``."""
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
    ("slower", "waiting_for_start"): ("start of the first engine", "start of the first engine"),
    ("slower", "router_queue"): ("router queue", "router queue"),
    ("slower", "router"): ("router", "router"),
    ("slower", "earlier_attempts"): ("failed attempts", "failed attempts"),
    ("slower", "connect"): ("connecting", "connecting"),
    ("slower", "network"): ("network to the backend", "network to the backend"),
    ("slower", "engine_queue"): ("engine queue", "engine queue"),
    ("slower", "prefill"): ("prefill", "prefill"),
    ("slower", "first_byte_wait"): ("engine until first byte", "engine until first byte"),
    ("slower", "relay"): ("relay", "relay"),
    ("slower", "thinking"): ("thinking", "thinking"),
    ("slower", "unexplained"): ("unexplained", "unexplained"),
}


def words(contribution: Contribution) -> str:
    """Return the text of a contribution."""
    known = _WORDS.get((contribution.kind, contribution.name), (contribution.name, contribution.name))
    text = known[contribution.seconds < 0]
    at_backend = contribution.kind == "slower" and contribution.name in _AT_A_BACKEND
    return f"{text} ({contribution.backend})" if at_backend and contribution.backend else text


def composition(window: Window) -> list[tuple[str, float]]:
    """Return mean seconds per component, largest first; they add up to the mean time to first token.

    Raises:
        ValueError: The window has no first token.
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
    """Return the composition of a mean as text, for a window without a baseline."""
    mean = window.mean_seconds
    assert mean is not None
    rows = [
        f"{seconds * 1000:>10.1f} ms  {words(Contribution(name, 'slower', seconds))}"
        for name, seconds in composition(window)
    ]
    head = f"{what} {mean * 1000:.0f} ms over {window.requests:.0f} first tokens; the baseline has none to compare with"
    return "\n".join([head, *rows])
