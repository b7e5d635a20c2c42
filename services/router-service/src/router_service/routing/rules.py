"""Rules: a name, a tree of conditions, and where a match goes. First match wins."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from router_service.routing.conditions import Condition
from router_service.routing.features import Features
from router_service.routing.hashing import unit

Test = Callable[[Features], bool]
SplitKey = Literal["session_id", "client_id", "request_id"]


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions or groups of them, joined by ``all``, ``any`` or ``not`` (none of them)."""

    join: Literal["all", "any", "not"]
    members: tuple["Condition | Group", ...]

    def conditions(self) -> Iterator[Condition]:
        """Every condition in this tree."""
        for member in self.members:
            if isinstance(member, Group):
                yield from member.conditions()
            else:
                yield member

    def matcher(self) -> Test:
        """The tree as one function; members are tested in order and only as far as needed."""
        tests = tuple(m.matcher() if isinstance(m, Group) else m.test for m in self.members)
        if self.join == "all":
            return tests[0] if len(tests) == 1 else _every(tests)
        some = _some(tests)
        return some if self.join == "any" else lambda features: not some(features)


# Loops, not all() and any() over a generator: those cost more than most tests do.


def _every(tests: tuple[Test, ...]) -> Test:
    def test_every(features: Features) -> bool:
        for test in tests:  # noqa: SIM110
            if not test(features):
                return False
        return True

    return test_every


def _some(tests: tuple[Test, ...]) -> Test:
    def test_some(features: Features) -> bool:
        for test in tests:  # noqa: SIM110
            if test(features):
                return True
        return False

    return test_some


@dataclass(frozen=True, slots=True)
class Target:
    """One pool of a rule and its share of the rule's requests."""

    pool: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The four timeouts of a request, in seconds."""

    connect_seconds: float = 1.0
    first_token_seconds: float = 60.0
    idle_seconds: float = 30.0
    total_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule. ``timeouts`` and ``policy`` are None where the rule does not override them."""

    name: str
    when: Group
    targets: tuple[Target, ...]
    split_by: SplitKey = "session_id"
    timeouts: Timeouts | None = None
    policy: str | None = None
    resume: bool = False
    matches: Test = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", self.when.matcher())

    def pool_for(self, features: Features, serving: Callable[[str], bool]) -> str | None:
        """Return the pool of this rule that takes the request, or None if none of them ``serves`` it.

        Weighted pools are split by a stable hash of the named key, so that a session (or a client) stays
        on its side; a request without that key is split by its request id.
        """
        targets = self.targets
        if len(targets) == 1:
            pool = targets[0].pool
            return pool if serving(pool) else None
        usable = [target for target in targets if serving(target.pool)]
        if not usable:
            return None
        key = {"session_id": features.session, "client_id": features.client_id}.get(self.split_by, "")
        point = unit("split", self.name, key or features.request_id) * sum(t.weight for t in usable)
        for target in usable:
            point -= target.weight
            if point < 0:
                return target.pool
        return usable[-1].pool
