"""Mistakes in shadows are reported with their line and a remedy, and useless shadows are linted."""

from pathlib import Path

import pytest

from router_service.cli.lint import lint
from router_service.config import BadConfig, RouterConfig, load
from router_service.routing.rules import Shadow

POOLS = """pools:
  live: {models: [m], backends: {a: {url: 'http://h:1'}}}
  next: {models: [m], backends: {b: {url: 'http://h:2'}}}
  other: {models: [n], backends: {c: {url: 'http://h:3'}}}
routing: {default_pool: live, rules_file: r.yaml}
"""


def loaded(folder: Path, *rules: str) -> RouterConfig:
    (folder / "router.yaml").write_text(POOLS)
    (folder / "r.yaml").write_text("rules:\n" + "".join(f"- {rule}\n" for rule in rules))
    return load(folder / "router.yaml")


def test_a_shadow_compiles(tmp_path: Path) -> None:
    config = loaded(tmp_path, "{name: r, when: {}, route_to: live, shadow: {pool: next, percent: 2.5}}")
    assert config.policy.rules[0].shadow == Shadow("next", 2.5)
    assert config.values.limits.shadow_slots == 8
    assert not [found for found in lint(config) if "shadow" in found]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("route_to: live, shadow: {pool: nxt, percent: 1}", '"nxt" is not a pool (did you mean next?'),
        ("route_to: live, shadow: {pool: next, percent: 101}", "101 should be less than or equal to 100"),
        ("route_to: live, shadow: {pool: next, percent: -1}", "-1 should be greater than or equal to 0"),
        ("route_to: live, shadow: {pool: next}", "is missing and has no default"),
        ("route_to: live, shadow: {pool: live, percent: 1}", "is a pool of this rule itself; name another"),
        ("route_to: [{pool: next}, {pool: live}], shadow: {pool: next, percent: 1}", "of this rule itself"),
        ("refuse: {message: no}, shadow: {pool: next, percent: 1}", "has no effect in a rule that refuses"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, rule: str, said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        loaded(tmp_path, f"{{name: r, when: {{}}, {rule}}}")
    assert said in str(caught.value)
    assert f"{tmp_path / 'r.yaml'}:2:" in str(caught.value)


def test_a_shadow_of_a_shadow_is_refused_with_both_rules(tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        loaded(
            tmp_path,
            "{name: first, when: {}, route_to: live, shadow: {pool: next, percent: 1}}",
            "{name: second, when: {}, route_to: next, shadow: {pool: other, percent: 1}}",
        )
    assert "r.yaml:3:" in str(caught.value)
    assert 'a shadow of a shadow: rule first sends copies to "next"' in str(caught.value)
    assert "remove one of the two shadows" in str(caught.value)


def test_shadows_that_copy_nothing_and_their_pools_models_are_linted(tmp_path: Path) -> None:
    found = lint(
        loaded(
            tmp_path,
            "{name: none, when: {stream: true}, route_to: live, shadow: {pool: next, percent: 0}}",
            "{name: model, when: {}, route_to: live, shadow: {pool: other, percent: 5}}",
        )
    )
    assert "rule none copies nothing: percent of its shadow is 0" in found
    assert (
        f"{tmp_path / 'r.yaml'}:3:58: rules[1].shadow.pool: rule model copies nothing: other serves n, and no model of "
        "live (m); name another pool, or add one of these models, or an alias, to pools.other"
    ) in found
    assert any(one.startswith("requests for n go to other, the shadow pool of rule model") for one in found)
