"""Rules: a name, a tree of conditions, and the target pools. The first match wins."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from router_service.routing.conditions import Condition
from router_service.routing.features import Features
from router_service.routing.hashing import unit

Test = Callable[[Features], bool]
SplitKey = Literal["session_id", "client_id", "request_id"]


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions or groups, joined by ``all``, ``any`` or ``not`` (none of them)."""

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
        """Return the tree as one function; it tests members in order and stops as soon as the result is known."""
        tests = tuple(m.matcher() if isinstance(m, Group) else m.test for m in self.members)
        if self.join == "all":
            return tests[0] if len(tests) == 1 else _every(tests)
        some = _some(tests)
        return some if self.join == "any" else lambda features: not some(features)


# Loops, because all() and any() over a generator cost more than most tests.


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
class Share:
    """The new pool of a rollout, and the percentage of the rule's requests that goes there."""

    to: str
    percent: float


@dataclass(frozen=True, slots=True)
class RuleRefusal:
    """The error response to a request that a rule refuses: 403, 404 or 429, and a message."""

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """Sends copies of ``percent`` (0 to 100) of a rule's requests to ``pool``; their answers are dropped."""

    pool: str
    percent: float

    def takes(self, rule: str, request_id: str) -> bool:
        """Return whether a request of ``rule`` is copied: always the same for one request id."""
        return unit("shadow", rule, request_id) * 100.0 < self.percent


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The four timeouts of a request, in seconds."""

    connect_seconds: float = 1.0
    first_token_seconds: float = 60.0
    idle_seconds: float = 30.0
    total_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule. ``timeouts`` and ``policy`` are None if the rule does not override them.

    A rule with a ``refusal`` has no targets. ``request_class`` is "" if the rule sets none. ``shadow`` None: no request is
    copied. ``targets`` are already those of the current step of a ``rollout``.
    """

    name: str
    when: Group
    targets: tuple[Target, ...]
    split_by: SplitKey = "session_id"
    timeouts: Timeouts | None = None
    policy: str | None = None
    resume: bool = False
    engine_fields: Mapping[str, Any] = field(default_factory=dict)
    refusal: RuleRefusal | None = None
    request_class: str = ""
    shadow: Shadow | None = None
    rollout: Share | None = None
    matches: Test = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", self.when.matcher())

    def pool_for(self, features: Features, serving: Callable[[str], bool]) -> str | None:
        """Return the pool of this rule for the request, or None if none of its pools ``serves`` the model.

        Weighted pools are split by a stable hash of the configured key, so that a session (or a client) stays in its
        pool. A request without that key is split by its request id.
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
