"""The references in docs/ are what the types say, and name every key and condition."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from router_service.cli.reference import configuration_reference, rules_reference
from router_service.config import load
from router_service.routing.conditions import kinds, registry
from router_service.routing.decide import decide
from router_service.routing.features import Features
from router_service.routing.policies import POLICIES
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import Reason

DOCS = Path(__file__).parents[4] / "docs"


@pytest.mark.parametrize(
    ("name", "text"),
    [("configuration.md", configuration_reference()), ("routing-rules.md", rules_reference())],
)
def test_a_reference_is_as_generated(name: str, text: str) -> None:
    assert (DOCS / name).read_text() == text, "run `make generate`"


def test_every_condition_is_in_the_rule_reference() -> None:
    text = rules_reference()
    assert all(f"| `{name}` |" in text for name in kinds())


def test_every_configuration_key_has_a_meaning() -> None:
    rows = [row for row in configuration_reference().splitlines() if row.startswith("| `")]
    assert len(rows) > 50
    assert all(row.split("|")[-2].strip() for row in rows)


def snippets() -> list[str]:
    text = (DOCS / "adding-a-condition-or-policy.md").read_text()
    return [block.split("```")[0] for block in text.split("```python\n")[1:]]


def test_the_documented_condition_and_policy_work_as_they_stand_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One function and one line each: configuration, check and decisions know them from there."""
    condition, policy = snippets()
    known: dict[str, Any] = {
        **vars(registry),
        "Sequence": Sequence,
        "BackendView": BackendView,
        "PoolView": PoolView,
    }
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    exec(condition, known)
    exec(policy, known)
    monkeypatch.setitem(POLICIES, "shortest_line", (known["scores"], Reason.LEAST_LOADED))
    (tmp_path / "router.yaml").write_text(
        "pools:\n"
        "  p: {models: [m], backends: {a: {url: 'http://a'}, b: {url: 'http://b'}}}\n"
        "  q: {models: [m], backends: {c: {url: 'http://c'}}}\n"
        "routing: {default_pool: p, rules_file: rules.yaml}\n"
    )
    (tmp_path / "rules.yaml").write_text("rules: [{name: r, when: {messages_lte: 2}, route_to: q}]\n")
    policy_in_use = load(tmp_path / "router.yaml").policy
    pools = {"p": policy_in_use.pools["p"], "q": replace(policy_in_use.pools["q"], policy="shortest_line")}
    members = [
        BackendView("c", "q", "", unusable=None, waiting=3.0),
        BackendView("d", "q", "", unusable=None),
    ]
    snapshot = Snapshot({"q": PoolView("q", members)})
    features = Features(model="m", messages=2)
    decision = decide(features, snapshot, replace(policy_in_use, pools=pools), 0.0)
    assert decision.chosen is not None
    assert (decision.rule_name, decision.policy, decision.chosen.name) == ("r", "shortest_line", "d")
