"""Which models a client may use, and rules that refuse."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_service.routing.access import ModelAccess
from router_service.routing.conditions import make
from router_service.routing.decide import decide
from router_service.routing.features import Features
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Group, Rule, RuleRefusal, Target
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import Reason, Unroutable

ACCESS = ModelAccess(
    {
        "team-a": ("small", "org/*"),
        "team-*": ("small",),
        "nobody": (),
        "by-alias": ("fast",),
    }
)
POLICY = Policy(
    pools={
        "general": Pool(
            "general", "least_loaded", ("small", "org/large"), {"fast": "small", "big": "org/large"}
        ),
        "other": Pool("other", "least_loaded", ("tiny",), {"fast": "tiny"}),
    },
    rules=(
        Rule(
            "no-long-answers",
            Group("all", (make("max_tokens_gte", 5000),)),
            (),
            refusal=RuleRefusal(429, "at night only"),
        ),
        Rule("tiny", Group("all", (make("model", "tiny"),)), (Target("other"),)),
    ),
    default_pool="general",
    access=ACCESS,
)


def backends() -> Snapshot:
    view = [BackendView("a", "general", "http://a", unusable=None)]
    return Snapshot({"general": PoolView("general", view), "other": PoolView("other", [])})


@pytest.mark.parametrize(
    ("client", "model", "allowed"),
    [
        pytest.param("team-a", "small", True, id="an exact name"),
        pytest.param("team-a", "org/large", True, id="a glob"),
        pytest.param("team-a", "big", True, id="an alias of an allowed model"),
        pytest.param("team-a", "tiny", False, id="a name that is not listed"),
        pytest.param("team-a", "fast", False, id="an alias that means a forbidden model in another pool"),
        pytest.param("team-b", "small", True, id="a client's glob"),
        pytest.param("team-b", "org/large", False, id="the own id decides before a glob: only team-a has it"),
        pytest.param("nobody", "small", False, id="an empty list allows nothing"),
        pytest.param("by-alias", "fast", True, id="the alias itself is listed"),
        pytest.param("by-alias", "small", False, id="a listed alias does not allow the model's own name"),
        pytest.param("stranger", "org/large", True, id="a client that nothing matches may use every model"),
        pytest.param("", "tiny", True, id="no client"),
        pytest.param("team-a", "SMALL", False, id="another case"),
        pytest.param("team-a", "small ", False, id="a space"),
        pytest.param("team-a", "small\x00", False, id="a control character"),
        pytest.param("team-a", "ѕmall", False, id="a look-alike letter"),
        pytest.param("team-a", "small\n", False, id="a line end"),
        pytest.param("team-a", "x\norg/large", False, id="a glob matches from the first character"),
    ],
)
def test_a_client_may_use_the_models_of_its_list(client: str, model: str, allowed: bool) -> None:
    assert POLICY.may_use(client, model) is allowed


@given(st.text(max_size=12))
def test_an_exact_list_allows_no_other_text(model: str) -> None:
    assert ModelAccess({"c": ("small",)}).allows("c", model) is (model == "small")


def test_a_forbidden_model_and_an_unknown_one_are_told_apart_unless_hidden() -> None:
    def unroutable(model: str, policy: Policy) -> Unroutable | None:
        return decide(Features(client_id="team-b", model=model), backends(), policy, 0.0).unroutable

    assert unroutable("org/large", POLICY) is Unroutable.MODEL_NOT_ALLOWED
    assert unroutable("unheard-of", POLICY) is Unroutable.MODEL_NOT_FOUND
    hidden = replace(POLICY, access=replace(ACCESS, hide_forbidden=True))
    assert unroutable("org/large", hidden) is Unroutable.MODEL_NOT_ALLOWED
    assert unroutable("unheard-of", hidden) is Unroutable.MODEL_NOT_ALLOWED
    assert unroutable("small", hidden) is None


def test_a_rule_that_refuses_ends_the_decision_before_later_rules() -> None:
    decision = decide(Features(model="small", max_tokens=5000), backends(), POLICY, 0.0)
    assert decision.chosen is None
    assert (decision.rule_name, decision.pool) == ("no-long-answers", "")
    assert (decision.unroutable, decision.reason) == (Unroutable.REFUSED_BY_RULE, Reason.REFUSED_BY_RULE)


def test_a_forbidden_model_is_refused_before_any_rule_is_asked() -> None:
    decision = decide(Features(client_id="nobody", model="small", max_tokens=5000), backends(), POLICY, 0.0)
    assert decision.reason is Reason.MODEL_NOT_ALLOWED
    assert decision.rule is None
