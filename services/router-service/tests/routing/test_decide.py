"""decide() as tables and properties: which pool, which backend, why, and why not the others."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_service.routing.conditions import make
from router_service.routing.decide import decide
from router_service.routing.features import Features
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, Target
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import AffinityState, Reason, RejectedBecause, Unroutable


def backend(name: str, pool: str = "general", **fields: Any) -> BackendView:
    return BackendView(name, pool, f"http://{name}", **{"unusable": None, "limit": 4, **fields})


def world(**pools: Sequence[BackendView]) -> dict[str, PoolView]:
    return {name: PoolView(name, list(members)) for name, members in pools.items()}


def rule(name: str, to: str | tuple[Target, ...], **when: Any) -> Rule:
    conditions = tuple(make(kind, value) for kind, value in when.items())
    targets = (Target(to),) if isinstance(to, str) else to
    return Rule(name, Group("all", conditions), targets)


POLICY = Policy(
    pools={
        "general": Pool("general", "least_loaded", ("small",), {"gpt-small": "small"}),
        "long": Pool("long", "least_loaded", ("small", "large")),
    },
    rules=(rule("big", "long", max_tokens_gte=800), rule("only-general", "general", prompt_chars_gte=50)),
    default_pool="general",
    fallback={"general": ("long",), "long": ("general",)},
)


def small(**fields: Any) -> Features:
    return Features(**{"model": "small", "request_id": "r", **fields})


def two_pools() -> dict[str, PoolView]:
    return world(general=[backend("a")], long=[backend("b", "long")])


@pytest.mark.parametrize(
    ("features", "pool", "rule_name", "passed_over"),
    [
        pytest.param(small(), "general", "default", [], id="no rule matches"),
        pytest.param(small(max_tokens=800), "long", "big", [], id="the first match wins"),
        pytest.param(small(max_tokens=900, prompt_chars=60), "long", "big", [], id="the order is the file's"),
        pytest.param(small(model="gpt-small"), "general", "default", [], id="an alias is served"),
        pytest.param(
            small(model="gpt-small", max_tokens=900), "general", "default", ["big"], id="passed over"
        ),
        pytest.param(small(model="large"), "long", "default", [], id="the first pool that serves the model"),
        pytest.param(small(model="large", prompt_chars=60), "long", "default", ["only-general"], id="both"),
    ],
)
def test_the_pool_is_that_of_the_first_rule_that_serves_the_model(
    features: Features, pool: str, rule_name: str, passed_over: list[str]
) -> None:
    decision = decide(features, Snapshot(two_pools()), POLICY, 0.0)
    assert (decision.pool, decision.rule_name, decision.passed_over) == (pool, rule_name, passed_over)
    assert decision.chosen is not None


@pytest.mark.parametrize(
    ("features", "pin", "chosen", "state"),
    [
        pytest.param(small(session="s"), "b", "b", AffinityState.KEPT, id="against the default pool"),
        pytest.param(small(session="s", prompt_chars=60), "b", "b", AffinityState.KEPT, id="against a rule"),
        pytest.param(
            small(session="s", model="gpt-small"),
            "b",
            "a",
            AffinityState.PLACED,
            id="the model is not served",
        ),
    ],
)
@pytest.mark.parametrize("affinity", [True, False])
def test_a_continued_response_goes_to_the_backend_that_has_it(
    features: Features, pin: str, chosen: str, state: AffinityState, affinity: bool
) -> None:
    snapshot = Snapshot(two_pools(), pin=pin, home="long")
    decision = decide(features, snapshot, replace(POLICY, affinity=affinity), 0.0)
    assert decision.chosen is not None
    assert decision.chosen.name == chosen
    if decision.home:
        assert (decision.affinity, decision.first_pool) == (state, "long")


@pytest.mark.parametrize(
    ("pin", "change", "unroutable"),
    [
        ("b", {"in_flight": 8, "limit": 8}, Unroutable.HOME_AT_LIMIT),
        ("b", {"unusable": RejectedBecause.STUCK}, Unroutable.HOME_NOT_READY),
        ("gone", {}, Unroutable.HOME_GONE),
    ],
)
def test_a_continued_response_goes_to_no_other_backend(
    pin: str, change: dict[str, Any], unroutable: Unroutable
) -> None:
    pools = two_pools()
    for name, value in change.items():
        setattr(pools["long"].backends[0], name, value)
    pools["long"].backends.append(BackendView("free", "long", "http://free", unusable=None))
    decision = decide(small(session="s"), Snapshot(pools, pin=pin, home="long"), POLICY, 0.0)
    assert decision.chosen is None
    assert decision.unroutable is unroutable
    assert [c.backend for c in decision.candidates] == [pin] * (pin == "b")


def test_an_open_breaker_does_not_hold_back_the_only_backend_that_can_answer() -> None:
    pools = two_pools()
    pools["long"].backends[0].breaker_open = True
    decision = decide(small(session="s"), Snapshot(pools, pin="b", home="long"), POLICY, 0.0)
    assert decision.chosen is pools["long"].backends[0]


def test_a_model_nobody_serves_is_not_found_whatever_is_ready() -> None:
    decision = decide(small(model="other"), Snapshot(two_pools()), POLICY, 0.0)
    assert decision.unroutable is Unroutable.MODEL_NOT_FOUND


def test_nothing_ready_goes_to_a_fallback_that_serves_the_model_and_says_so() -> None:
    pools = two_pools()
    pools["general"].backends[0].unusable = RejectedBecause.STUCK
    decision = decide(small(), Snapshot(pools), POLICY, 0.0)
    assert decision.chosen is not None
    assert (decision.chosen.name, decision.pool, decision.reason) == ("b", "long", Reason.FALLBACK)
    assert [(c.backend, c.rejected_because) for c in decision.candidates] == [
        ("a", RejectedBecause.STUCK),
        ("b", None),
    ]
    # an alias that only the first pool has is never sent to the other
    refused = decide(small(model="gpt-small"), Snapshot(pools), POLICY, 0.0)
    assert refused.unroutable is Unroutable.NONE_READY
    assert [(c.backend, c.rejected_because) for c in refused.candidates] == [
        ("a", RejectedBecause.STUCK),
        ("b", RejectedBecause.MODEL_NOT_SERVED),
    ]


def test_a_full_pool_waits_and_does_not_spill_into_its_fallback() -> None:
    pools = two_pools()
    pools["general"].backends[0].in_flight = 4
    decision = decide(small(), Snapshot(pools), POLICY, 0.0)
    assert (decision.chosen, decision.unroutable, decision.pool) == (None, Unroutable.ALL_AT_LIMIT, "general")


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"unusable": RejectedBecause.WARMING}, RejectedBecause.WARMING),
        ({"breaker_open": True}, RejectedBecause.BREAKER_OPEN),
        ({"in_flight": 4}, RejectedBecause.AT_LIMIT),
        ({"in_flight": 2, "ramp": 0.5}, RejectedBecause.AT_LIMIT),
    ],
)
def test_each_rejected_candidate_says_why(fields: dict[str, Any], because: RejectedBecause) -> None:
    pools = world(general=[backend("bad", **fields), backend("good")], long=[])
    decision = decide(small(), Snapshot(pools), POLICY, 0.0)
    assert decision.chosen is not None
    assert decision.chosen.name == "good"
    assert {c.backend: c.rejected_because for c in decision.candidates} == {"bad": because, "good": None}
    assert decision.reason is Reason.ONLY_CANDIDATE


def test_breakers_hold_back_at_most_their_share_of_a_pool_and_always_one() -> None:
    everyone = [backend(f"x{i}", breaker_open=True) for i in range(4)]
    decision = decide(small(), Snapshot(world(general=everyone, long=[])), POLICY, 0.0)
    rejected = [c for c in decision.candidates if c.rejected_because is RejectedBecause.BREAKER_OPEN]
    assert len(rejected) == 2
    alone = decide(small(), Snapshot(world(general=[backend("x", breaker_open=True)], long=[])), POLICY, 0.0)
    assert alone.unroutable is Unroutable.NONE_READY


@pytest.mark.parametrize("others", [1, 3])
def test_a_breaker_does_not_hold_back_the_last_backend_that_health_leaves(others: int) -> None:
    gone = [backend(f"x{i}", unusable=RejectedBecause.UNREACHABLE) for i in range(others)]
    decision = decide(
        small(), Snapshot(world(general=[*gone, backend("last", breaker_open=True)], long=[])), POLICY, 0.0
    )
    assert decision.chosen is not None
    assert decision.chosen.name == "last"


def test_a_breaker_holds_back_one_of_two_that_health_leaves() -> None:
    members = [
        backend("gone", unusable=RejectedBecause.UNREACHABLE),
        backend("bad", breaker_open=True),
        backend("good"),
    ]
    decision = decide(small(), Snapshot(world(general=members, long=[])), POLICY, 0.0)
    assert decision.chosen is not None
    assert decision.chosen.name == "good"


def test_a_retry_never_goes_where_it_was_tried() -> None:
    pools = world(general=[backend("a"), backend("b")], long=[])
    decision = decide(small(), Snapshot(pools, tried=("a",), attempt="retry"), POLICY, 0.0)
    assert decision.chosen is not None
    assert (decision.chosen.name, decision.reason) == ("b", Reason.RETRY)


def test_least_loaded_takes_turns_among_equals_and_round_robin_passes_over_the_unready() -> None:
    members = [backend("a"), backend("b"), backend("c", unusable=RejectedBecause.DRAINING), backend("d")]
    for policy_name in ("least_loaded", "round_robin"):
        policy = replace(POLICY, pools={**POLICY.pools, "general": Pool("general", policy_name, ("small",))})
        pools = world(general=members, long=[])
        seen = []
        for _ in range(6):
            decision = decide(small(), Snapshot(pools), policy, 0.0)
            assert decision.chosen is not None
            seen.append(decision.chosen.name)
            pools["general"].round_robin = decision.place + 1
        assert set(seen) == {"a", "b", "d"}, policy_name


def test_a_session_stays_where_it_is_pinned_until_that_cannot_take_it() -> None:
    pools = world(general=[backend("a", in_flight=3), backend("b")], long=[])
    kept = decide(small(session="s"), Snapshot(pools, pin="a"), POLICY, 0.0)
    assert kept.chosen is not None
    assert (kept.chosen.name, kept.reason, kept.affinity) == (
        "a",
        Reason.SESSION_AFFINITY,
        AffinityState.KEPT,
    )
    pools["general"].backends[0].in_flight = 4
    broken = decide(small(session="s"), Snapshot(pools, pin="a"), POLICY, 0.0)
    assert broken.chosen is not None
    assert (broken.chosen.name, broken.reason) == ("b", Reason.AFFINITY_BROKEN)


def test_when_a_backend_comes_or_goes_only_the_sessions_that_must_move_do() -> None:
    def placement(count: int) -> dict[str, str]:
        pools = world(general=[backend(f"n{i}", limit=10_000) for i in range(count)], long=[])
        found = {}
        for number in range(1000):
            decision = decide(small(session=f"s{number}"), Snapshot(pools), POLICY, 0.0)
            assert decision.chosen is not None
            found[f"s{number}"] = decision.chosen.name
        return found

    four, five = placement(4), placement(5)
    moved = [s for s in four if four[s] != five[s]]
    assert all(five[s] == "n4" for s in moved)
    assert len(moved) < 1000 / 5 * 1.25


@settings(max_examples=25)
@given(st.lists(st.uuids().map(str), min_size=2, max_size=9, unique=True), st.integers(0, 8), st.randoms())
def test_whichever_backend_leaves_only_its_own_sessions_move_and_the_order_does_not_matter(
    names: list[str], leaves: int, dice: Random
) -> None:
    def placement(members: list[str]) -> dict[str, str]:
        pools = world(general=[backend(name, limit=10_000) for name in members], long=[])
        found = {}
        for number in range(100):
            decision = decide(small(session=f"s{number}"), Snapshot(pools), POLICY, 0.0)
            assert decision.chosen is not None
            found[f"s{number}"] = decision.chosen.name
        return found

    gone = names[leaves % len(names)]
    rest = [name for name in names if name != gone]
    before = placement(names)
    dice.shuffle(rest)
    after = placement(rest)
    assert {s for s in before if before[s] != after[s]} == {s for s in before if before[s] == gone}


def test_a_hot_prefix_never_piles_up_on_one_backend() -> None:
    policy = replace(
        POLICY, pools={**POLICY.pools, "general": Pool("general", "prefix_affinity", ("small",))}
    )
    members = [backend(f"n{i}", limit=10_000) for i in range(16)]
    pools = world(general=members, long=[])
    for number in range(1600):
        decision = decide(small(prefix="hot" if number % 4 else f"p{number}"), Snapshot(pools), policy, 0.0)
        assert decision.chosen is not None
        decision.chosen.in_flight += 1
    assert max(m.in_flight for m in members) <= 100 * 1.3


def test_a_weighted_split_keeps_its_shares_and_every_session_its_side() -> None:
    canary = rule("canary", (Target("general", 9), Target("long", 1)))
    policy = replace(POLICY, rules=(canary,))
    sides: dict[str, str] = {}
    for number in range(2000):
        decision = decide(
            small(session=f"s{number}", request_id=f"r{number}"), Snapshot(two_pools()), policy, 0.0
        )
        sides[f"s{number}"] = decision.pool
        again = decide(small(session=f"s{number}", request_id="other"), Snapshot(two_pools()), policy, 0.0)
        assert again.pool == decision.pool
    assert 0.07 < list(sides.values()).count("long") / 2000 < 0.13


BACKENDS = st.lists(
    st.builds(
        BackendView,
        name=st.uuids().map(str),
        pool=st.just("general"),
        url=st.just("http://x"),
        in_flight=st.integers(0, 6),
        limit=st.integers(1, 6),
        unusable=st.one_of(st.none(), st.sampled_from([RejectedBecause.STUCK, RejectedBecause.WARMING])),
        breaker_open=st.booleans(),
        ramp=st.floats(0.1, 1.0),
        waiting=st.floats(0, 50),
    ),
    max_size=8,
    unique_by=lambda b: b.name,
)


@given(
    members=BACKENDS,
    turn=st.integers(0, 20),
    session=st.sampled_from(["", "s1", "s2"]),
    policy_name=st.sampled_from(["least_loaded", "round_robin", "prefix_affinity"]),
    data=st.data(),
)
def test_the_same_question_has_the_same_answer_and_never_an_ineligible_backend(
    members: list[BackendView], turn: int, session: str, policy_name: str, data: st.DataObject
) -> None:
    names = [m.name for m in members]
    tried = tuple(data.draw(st.lists(st.sampled_from(names), max_size=2)) if names else [])
    pin = data.draw(st.sampled_from(names)) if names else ""
    policy = replace(POLICY, pools={**POLICY.pools, "general": Pool("general", policy_name, ("small",))})

    def ask() -> Any:
        pools = {"general": PoolView("general", members, turn), "long": PoolView("long")}
        return decide(small(session=session, prefix="p"), Snapshot(pools, pin, tried), policy, 1.0)

    first, second = ask(), ask()
    assert (first.chosen, first.reason, first.candidates) == (second.chosen, second.reason, second.candidates)
    assert len(first.candidates) == len(members)
    if first.chosen is None:
        assert all(c.rejected_because for c in first.candidates)
        assert first.unroutable is not None
    else:
        by_name = {c.backend: c for c in first.candidates}
        assert by_name[first.chosen.name].eligible
        assert first.chosen.name not in tried
        assert first.chosen.unusable is None
        assert first.chosen.in_flight < first.chosen.limit
