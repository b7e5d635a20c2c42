"""A large pool is kept sorted: whatever happens to it, it is sorted as if from scratch, and decisions do not notice."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.pipeline.fleet import Fleet
from router_service.pipeline.line import Bounds
from router_service.ports import Endpoint, Health
from router_service.resilience.breaker import BreakerSettings
from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.hashing import SPAN, Rendezvous, rendezvous
from router_service.routing.policy import Policy, Pool
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.standing import FROM_BACKENDS, Standing
from router_service.routing.vocabulary import RejectedBecause, State

POLICIES = ["least_loaded", "round_robin", "prefix_affinity"]
BOUNDS = Bounds(
    max_in_flight_per_backend=4,
    breaker=BreakerSettings(failures=2, open_seconds=5.0, slow_start_seconds=10.0),
)
MANY = FROM_BACKENDS + 13


def policy_of(name: str) -> Policy:
    return Policy({"p": Pool("p", name, ("m",))}, (), "p", max_ejected_ratio=0.3)


def chosen_and_why(decision: Decision) -> tuple[Any, ...]:
    chosen = decision.chosen.name if decision.chosen is not None else None
    return chosen, decision.reason, decision.unroutable, decision.affinity, decision.place


def counted(decision: Decision) -> dict[str, int]:
    """Rejections by reason, named or not."""
    found: dict[str, int] = {}
    for candidate in decision.candidates:
        if candidate.rejected_because is not None:
            found[candidate.rejected_because] = found.get(candidate.rejected_because, 0) + 1
    for because, count in (decision.hidden or {}).get("p", {}).items():
        found[because] = found.get(because, 0) + count
    return found


def assert_no_decision_notices(
    view: PoolView, key: str, pin: str = "", tried: tuple[str, ...] = (), name: str = ""
) -> None:
    """Compare the decisions of the sorted pool with those of the same pool read backend by backend."""
    listed = PoolView(view.name, view.backends, view.round_robin)
    for policy_name in [name] if name else POLICIES:
        for session in ("", key):
            features = Features(model="m", request_id="r", session=session, prefix=key)
            policy = policy_of(policy_name)
            fast = decide(features, Snapshot({"p": view}, pin, tried), policy, 0.0)
            plain = decide(features, Snapshot({"p": listed}, pin, tried), policy, 0.0)
            assert chosen_and_why(fast) == chosen_and_why(plain)
            assert counted(fast) == counted(plain)
            eligible = len(fast.eligible) + (fast.left_out.count if fast.left_out is not None else 0)
            assert eligible == len(plain.eligible)
            if fast.affinity != "kept":
                assert best(fast) == best(plain)[: len(fast.eligible)]


def best(decision: Decision) -> list[str]:
    order = sorted(zip(decision.scores, decision.eligible, strict=True), key=lambda pair: pair[0])
    return [seen[0] for _, seen in order]


ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("health"), st.integers(0, MANY), st.sampled_from(["ready", "warming", "stuck", "lost"])
        ),
        st.tuples(st.just("waiting"), st.integers(0, MANY), st.integers(0, 200)),
        st.tuples(st.just("begin"), st.integers(0, MANY), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, MANY), st.sampled_from([True, False, None])),
        st.tuples(st.just("time"), st.floats(0.0, 6.0), st.just(0)),
        st.tuples(st.just("join"), st.integers(0, MANY), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, MANY), st.just(0)),
        st.tuples(st.just("limit"), st.integers(1, 6), st.just(0)),
    ),
    max_size=60,
)
HEALTH = {
    "ready": Health(True, State.IDLE),
    "warming": Health(False, State.WARMING),
    "stuck": Health(False, State.STUCK),
    "lost": Health(False, State.UNREACHABLE),
}


class World:
    """A fleet of one pool that a list of actions happens to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.fleet = Fleet(["p"], BOUNDS, lambda: self.now)
        self.names = [f"b{number}" for number in range(MANY)]
        self.running: list[BackendView] = []
        self._list()
        for name in self.names:
            self.fleet.set_health("p", name, HEALTH["ready"])

    @property
    def view(self) -> PoolView:
        return self.fleet.pools["p"]

    def _list(self) -> None:
        self.fleet.set_endpoints("p", [Endpoint(name, f"http://{name}", "") for name in self.names])

    def act(self, kind: str, which: Any, how: Any) -> None:
        name = self.names[which % len(self.names)] if isinstance(which, int) else ""
        backend = self.fleet._by_name["p"].get(name)
        if kind == "health":
            self.fleet.set_health("p", name, HEALTH[how])
        elif kind == "waiting":
            self.fleet.set_health("p", name, replace(HEALTH["ready"], waiting=float(how)))
        elif kind == "begin" and backend is not None:
            self.fleet.begin(backend, "client")
            self.running.append(backend)
        elif kind == "end" and self.running:
            self.fleet.end(self.running.pop(which % len(self.running)), how, "client")
        elif kind == "time":
            self.now += which
            self.fleet.refresh(self.now)
        elif kind == "join":
            self.names.insert(which % len(self.names), f"n{len(self.names)}-{self.now}-{which}")
            self.names = list(dict.fromkeys(self.names))
            self._list()
        elif kind == "leave" and len(self.names) > FROM_BACKENDS:
            self.names.remove(name)
            self._list()
        elif kind == "limit":
            self.fleet.reconfigure(["p"], replace(BOUNDS, max_in_flight_per_backend=which))


@settings(max_examples=150)
@given(actions=ACTIONS, turn=st.integers(0, 99), key=st.sampled_from(["k1", "k2", "k3"]), data=st.data())
def test_after_any_interleaving_the_order_is_that_of_a_pool_sorted_from_scratch(
    actions: list[tuple[str, Any, Any]], turn: int, key: str, data: st.DataObject
) -> None:
    world = World()
    for action in actions:
        world.act(*action)
    view = world.view
    assert view.standing is not None
    assert view.standing.state() == Standing(view.backends).state()
    usable = [b for b in view.backends if b.unusable is None and not b.breaker_open]
    assert world.fleet.usable("p") == len(usable)
    view.round_robin = turn
    tried = data.draw(st.lists(st.sampled_from(world.names), max_size=2, unique=True))
    pin = data.draw(st.sampled_from(["", *world.names]))
    assert_no_decision_notices(view, key, pin, tuple(tried))


@settings(max_examples=80)
@given(
    unusable=st.integers(0, MANY),
    open_breakers=st.integers(1, MANY),
    ratio=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    order=st.randoms(use_true_random=False),
)
def test_breakers_never_block_the_last_usable_backend_of_a_sorted_pool(
    unusable: int, open_breakers: int, ratio: float, order: Any
) -> None:
    members = [BackendView(f"b{number}", "p", "http://x", unusable=None) for number in range(MANY)]
    shuffled = order.sample(members, MANY)
    for member in shuffled[:unusable]:
        member.unusable = RejectedBecause.STUCK
    for member in shuffled[-open_breakers:]:
        member.breaker_open = True
    view = PoolView("p", members, standing=Standing(members))
    policy = Policy({"p": Pool("p", "least_loaded", ("m",))}, (), "p", max_ejected_ratio=ratio)
    decision = decide(Features(model="m", request_id="r"), Snapshot({"p": view}), policy, 0.0)
    usable = MANY - unusable
    assert (decision.chosen is not None) == (usable > 0)
    blocked = counted(decision).get(RejectedBecause.BREAKER_OPEN, 0)
    assert blocked <= min(max(1, int(MANY * ratio)), max(0, usable - 1))
    plain = PoolView("p", members)
    listed = decide(Features(model="m", request_id="r"), Snapshot({"p": plain}), policy, 0.0)
    assert chosen_and_why(decision) == chosen_and_why(listed)
    assert counted(decision) == counted(listed)


@settings(max_examples=60)
@given(seed=st.randoms(use_true_random=False), busy=st.integers(1, 8), bad=st.floats(0.0, 1.0))
def test_decisions_of_a_pool_of_any_state_do_not_depend_on_how_it_is_read(
    seed: Any, busy: int, bad: float
) -> None:
    members = [
        BackendView(
            f"b{number}", "p", "http://x", in_flight=seed.randint(0, busy), limit=8,
            unusable=seed.choice(list(RejectedBecause)[:5]) if seed.random() < bad else None,
            breaker_open=seed.random() < 0.1, ramp=seed.choice([1.0, 1.0, 0.3]), waiting=seed.choice([0.0, 7.0]),
        )
        for number in range(seed.randint(FROM_BACKENDS, 200))
    ]  # fmt: skip
    view = PoolView("p", members, seed.randint(0, 300), standing=Standing(members))
    assert_no_decision_notices(view, f"k{seed.random()}", "b3", ("b1", "b2"))


@given(st.lists(st.text(max_size=8), min_size=1, max_size=40, unique=True), st.text(max_size=8))
def test_the_weights_of_many_nodes_are_those_of_each(names: list[str], key: str) -> None:
    assert [weight / SPAN for weight in Rendezvous(names).weights(key)] == rendezvous(key, names)


@pytest.mark.parametrize("name", POLICIES)
def test_a_decision_about_a_thousand_backends_reads_few_of_them(name: str) -> None:
    """Counts the backends that are read: a time would depend on the machine."""
    read: list[str] = []

    class Watched(BackendView):
        __slots__ = ()

        def __getattribute__(self, attribute: str) -> Any:
            if attribute == "in_flight":
                read.append(attribute)
            return super().__getattribute__(attribute)

    members = [Watched(f"b{number}", "p", "http://x", unusable=None, limit=8) for number in range(1000)]
    for member in members[::7]:
        member.unusable = RejectedBecause.WARMING
    view = PoolView("p", members, standing=Standing(members))
    read.clear()
    decision = decide(
        Features(model="m", request_id="r", prefix="k"), Snapshot({"p": view}), policy_of(name), 0.0
    )
    assert decision.chosen is not None
    assert len(read) <= 40
    assert counted(decision) == {"warming": 143}
    assert len(decision.rejected) == 8
