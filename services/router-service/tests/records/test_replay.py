"""A decision, its record and its replay agree; a record keeps no text; explain tells it to a person."""

import json
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router_service.records.explain import explain
from router_service.records.record import LOGGED_BEST, AttemptRecord, DecisionRecord
from router_service.records.replay import as_text, decide_again, replay
from router_service.records.ring import Ring
from router_service.routing.conditions import CannotTell, make
from router_service.routing.decide import decide
from router_service.routing.features import Sender, extract_features
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, Target
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import Outcome, RejectedBecause

KEYWORD = Rule("code", Group("all", (make("any_keywords", ["python"]),)), (Target("b"),))
POLICY = Policy(
    pools={"a": Pool("a", "least_loaded", ("m",)), "b": Pool("b", "prefix_affinity", ("m",))},
    rules=(KEYWORD, Rule("long", Group("all", (make("prompt_chars_gte", 100),)), (Target("b"),))),
    default_pool="a",
    fallback={"a": ("b",)},
    hash="abc123",
)
CANARY = "canary-4b1d"


def compact(record: DecisionRecord) -> bytes:
    return json.dumps(record.as_dict(), separators=(",", ":")).encode()


def recorded(
    body: dict[str, Any],
    pools: dict[str, PoolView],
    pin: str = "",
    session: str = "",
    number: int = 0,
    home: str = "",
) -> tuple[dict[str, Any], Any]:
    features = extract_features(
        {"model": "m", **body},
        "/v1/chat/completions",
        {"authorization": CANARY},
        Sender("client", f"r{number}", session),
        needs=POLICY.needs,
    )
    snapshot = Snapshot(pools, pin=pin, home=home)
    decision = decide(features, snapshot, POLICY, 1000.0)
    record = DecisionRecord(features.request_id, features.path, 1000.0, POLICY.hash)
    record.features = features
    record.client_id = features.client_id
    record.decided(decision)
    record.outcome = Outcome.OK
    return orjson.loads(orjson.dumps(record.as_dict(), default=str)), decision


MEMBERS = st.lists(  # more than a log line keeps
    st.builds(
        BackendView,
        name=st.uuids().map(str),
        pool=st.just(""),
        url=st.just("http://x"),
        in_flight=st.integers(0, 5),
        limit=st.integers(1, 5),
        unusable=st.one_of(st.none(), st.sampled_from(list(RejectedBecause)[:5])),
        breaker_open=st.booleans(),
        ramp=st.sampled_from([0.1, 0.5, 1.0]),
        waiting=st.sampled_from([0.0, 3.0]),
    ),
    min_size=1,
    max_size=30,
    unique_by=lambda b: b.name,
)


@given(a=MEMBERS, b=MEMBERS, turn=st.integers(0, 9), text=st.sampled_from(["hi", "python", "x" * 200]),
       session=st.sampled_from(["", "s"]), pinned=st.booleans(), home=st.sampled_from(["", "a", "b"]))  # fmt: skip
def test_replaying_a_record_by_the_same_policy_gives_the_same_decision(
    a: list[BackendView], b: list[BackendView], turn: int, text: str, session: str, pinned: bool, home: str
) -> None:
    for member in a:
        member.pool = "a"
    for member in b:
        member.pool = "b"
    pools = {"a": PoolView("a", a, turn), "b": PoolView("b", b, turn)}
    body = {"messages": [{"role": "user", "content": text}]}
    record, decision = recorded(body, pools, a[0].name if pinned else "", session, home=home)
    again = decide_again(record, POLICY)
    assert (again.chosen and again.chosen.name) == (decision.chosen and decision.chosen.name)
    assert (again.pool, again.rule_name, again.reason) == (decision.pool, decision.rule_name, decision.reason)


@given(seed=st.integers(0, 2**32), turn=st.integers(0, 99), session=st.sampled_from(["", "s"]))
def test_a_large_pools_record_replays_although_its_line_keeps_only_the_best_candidates(
    seed: int, turn: int, session: str
) -> None:
    dice = random.Random(seed)
    busy = dice.choice([0, 3])
    members = [
        BackendView(
            f"b{n}",
            "a",
            "http://x",
            unusable=None,
            in_flight=dice.randint(0, busy),
            limit=8,
            breaker_open=dice.random() < 0.4,
            ramp=dice.choice([0.2, 1.0]),
        )
        for n in range(dice.randint(40, 64))
    ]
    record, decision = recorded({}, {"a": PoolView("a", members, turn)}, session=session)
    assume(len(record["candidates"]) < len(members))
    again = decide_again(record, POLICY)
    assert decision.chosen is not None
    assert again.chosen is not None
    assert (again.chosen.name, again.reason) == (decision.chosen.name, decision.reason)


def test_a_model_that_was_refused_is_compared_with_rules_that_serve_it() -> None:
    record, decision = recorded({"model": "new"}, healthy())
    assert decision.chosen is None
    tomorrow = Policy(pools={"n": Pool("n", "least_loaded", ("new",))}, rules=(), default_pool="n")
    result = replay([record], tomorrow)
    assert (result.total, result.different) == (1, 1)
    assert "nowhere (rule default) -> n (rule default)" in as_text(result)


def healthy() -> dict[str, PoolView]:
    def one(name: str, pool: str) -> PoolView:
        return PoolView(pool, [BackendView(name, pool, "http://x", unusable=None)])

    return {"a": one("backend-a", "a"), "b": one("backend-b", "b")}


def test_a_record_holds_no_prompt_no_key_and_no_session_id() -> None:
    body = {"messages": [{"role": "user", "content": f"python {CANARY}"}], "user": CANARY}
    record, _ = recorded(body, healthy(), session=CANARY)
    assert CANARY not in json.dumps(record)
    assert record["rule"] == "code"


def test_a_log_line_with_four_candidates_is_at_most_one_and_a_half_kilobytes() -> None:
    members = [BackendView(f"backend-{i}", "a", "http://x", unusable=None) for i in range(4)]
    record, _ = recorded({"messages": [{"role": "user", "content": "hi"}]}, {"a": PoolView("a", members)})
    record["ttft_ledger_ms"] = dict.fromkeys(["edge", "router", "connect", "prefill", "unexplained"], 1.234)
    assert len(json.dumps(record, separators=(",", ":"))) <= 1500


def test_new_rules_are_compared_with_yesterday_and_what_needs_unseen_text_is_said() -> None:
    bodies = [{"messages": [{"role": "user", "content": text}]} for text in ("hi", "x" * 150, "python")]
    records = [recorded(body, healthy(), number=n)[0] for n, body in enumerate(bodies)]
    raised = replace(
        POLICY, rules=(KEYWORD, Rule("long", Group("all", (make("prompt_chars_gte", 500),)), (Target("b"),)))
    )
    result = replay([*records, None], raised)
    assert (result.total, result.same, result.different, result.ignored_lines) == (3, 2, 1, 1)
    assert result.moves == {("b", "long", "a", "default"): 1}
    assert "r1" in as_text(result)
    unseen = replace(
        POLICY, rules=(Rule("new", Group("all", (make("any_keywords", ["other"]),)), (Target("b"),)),)
    )
    assert replay(records, unseen).cannot_tell == 3
    with pytest.raises(CannotTell):
        decide_again(records[0], unseen)


def test_explain_says_what_was_asked_who_was_considered_and_where_the_time_went() -> None:
    pools = healthy()
    pools["a"].backends.append(BackendView("backend-c", "a", "http://x", unusable=RejectedBecause.STUCK))
    record, _ = recorded({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 7}, pools)
    record["attempts"] = [AttemptRecord("backend-a", "ok", 200, 0.2, 80.0).as_dict()]
    record["ttft_ledger_ms"] = {"edge": 1.0, "prefill": 70.0, "engine_queue": None, "unexplained": -0.5}
    record["first_token_ms"] = 80.4
    text = explain(record)
    for said in (
        "at most 7 tokens",
        "no rule matched",
        "it was the only backend that could accept the request",
        "backend-c: was stuck (stuck)",
        "70.00 ms  prefill",
        "-0.50 ms  not explained",
    ):
        assert said in text


def test_the_ring_forgets_the_oldest_and_finds_the_latest_first() -> None:
    ring = Ring(3)
    for number in range(5):
        record = DecisionRecord(f"r{number}", "/v1/chat/completions", 0.0, "h")
        record.outcome = Outcome.OK if number % 2 else Outcome.TIMEOUT
        record.attempts = [AttemptRecord(f"backend-{number}")]
        ring.add(record, compact(record))

    def found(**wanted: Any) -> list[str]:
        return [json.loads(text)["request_id"] for text in ring.find(**wanted)]

    assert ring.get("r1") is None
    assert found() == ["r4", "r3", "r2"]
    assert found(outcome="timeout", limit=1) == ["r4"]
    assert found(outcome="ok", backend="backend-3") == ["r3"]
    assert found(backend="backend-3", outcome="timeout") == []
    assert found(pool="general") == []
    assert found(after="r3") == ["r4"]
    assert found(before="r4") == ["r3", "r2"]
    assert found(after="r2", before="r4") == ["r3"]
    assert found(before="r4", limit=1) == ["r3"]
    assert found(before="r1") == [], "it is no longer kept"
    ring.reconfigure(1)
    assert len(ring) == 1
    assert found() == ["r4"]


def test_the_ring_keeps_every_candidate_of_a_large_pool_although_the_log_does_not() -> None:
    members = [BackendView(f"b{n}", "a", "http://x", unusable=None) for n in range(20)]
    record = DecisionRecord("r1", "/v1/chat/completions", 0.0, POLICY.hash)
    record.features = extract_features({"model": "m"}, record.path, {}, needs=POLICY.needs)
    record.decided(decide(record.features, Snapshot({"a": PoolView("a", members)}), POLICY, 0.0))
    ring = Ring(1)
    ring.add(record, compact(record))
    whole = ring.get("r1")
    (text,) = ring.find()
    listed = json.loads(text)
    assert whole is not None
    assert [c["backend"] for c in whole["candidates"]] == [member.name for member in members]
    assert len(listed["candidates"]) == LOGGED_BEST
    assert listed["candidates_total"] == len(members)
    other = DecisionRecord("r2", record.path, 0.0, POLICY.hash)
    ring.add(other, compact(other))
    assert ring.get("r1") is None
