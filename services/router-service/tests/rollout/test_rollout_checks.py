"""Mistakes in rollouts and in the weights file are reported with file, line and a remedy."""

from pathlib import Path

import pytest

from router_service.config import BadConfig, RouterConfig, load
from router_service.routing.rules import Share, Target

POOLS = """pools:
  live: {models: [m], backends: {a: {url: 'http://h:1'}}}
  next: {models: [m], backends: {b: {url: 'http://h:2'}}}
routing: {default_pool: live, rules_file: r.yaml, weights_file: w.yaml}
"""
GOOD = "{to: next, steps: [5, 50], objectives: {errors: 0.02}}"


def loaded(
    folder: Path, rollout: str = GOOD, weights: str = "", route: str = "route_to: live"
) -> RouterConfig:
    (folder / "router.yaml").write_text(POOLS)
    (folder / "r.yaml").write_text(f"rules:\n- name: r\n  when: {{}}\n  {route}\n  rollout: {rollout}\n")
    if weights:
        (folder / "w.yaml").write_text(weights)
    return load(folder / "router.yaml")


def share(percent: float, to: str = "next") -> str:
    return f"rollouts:\n  r: {{to: {to}, percent: {percent}}}\n"


def test_the_weights_file_sets_the_targets_of_its_rule(tmp_path: Path) -> None:
    before = loaded(tmp_path)
    assert before.policy.rules[0].targets == (Target("live"),)
    after = loaded(tmp_path, weights=share(5))
    assert after.policy.rules[0].targets == (Target("next", 5), Target("live", 95))
    assert after.policy.rules[0].rollout == Share("next", 5)
    assert before.hash == before.plain_hash == after.plain_hash != after.hash
    other = loaded(tmp_path, weights=share(5, to="former"))
    assert (other.policy.rules[0].targets, other.hash) == ((Target("live"),), before.hash)


@pytest.mark.parametrize(
    ("rollout", "said"),
    [
        (
            "{to: next}",
            "names no objective, so nothing would stop a worse pool; set at least one of ttft_p50",
        ),
        ("{to: next, objectives: {}}", "names no objective"),
        ("{to: next, objectives: {ttft_p50: null}}", "names no objective"),
        ("{to: nxt, objectives: {errors: 0}}", '"nxt" is not a pool (did you mean next?'),
        ("{to: live, objectives: {errors: 0}}", '"live" is the old pool (route_to); name the new one'),
        ("{to: next, steps: [5, 5], objectives: {errors: 0}}", "does not exceed the step before, 5; sort"),
        ("{to: next, steps: [50, 5], objectives: {errors: 0}}", "5 does not exceed the step before, 50"),
        ("{to: next, steps: [], objectives: {errors: 0}}", "at least 1 item"),
        ("{to: next, steps: [101], objectives: {errors: 0}}", "101 should be less than or equal to 100"),
        ("{to: next, objectives: {errors: 2}}", "2 should be less than 1"),
        ("{to: next, objectives: {ttft_p50: 0.5}}", "0.5 should be greater than or equal to 1"),
        ("{to: next, objectives: {latency: 2}}", "latency"),
        ("{objectives: {errors: 0}}", "is missing and has no default"),
    ],
)
def test_a_mistake_names_its_line_and_a_remedy(tmp_path: Path, rollout: str, said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        loaded(tmp_path, rollout)
    assert said in str(caught.value)
    assert f"{tmp_path / 'r.yaml'}:5:" in str(caught.value)


def test_a_rollout_needs_one_old_pool_a_route_and_a_weights_file(tmp_path: Path) -> None:
    for route, said in [
        ("route_to: [{pool: live}, {pool: next}]", "needs a route_to with one pool, the old one"),
        ("refuse: {message: no}", "has no effect in a rule that refuses; remove it"),
        ("route_to: live\n  shadow: {pool: next, percent: 1}", '"next" is a pool of this rule itself'),
    ]:
        with pytest.raises(BadConfig) as caught:
            loaded(tmp_path, route=route)
        assert said in str(caught.value)
    loaded(tmp_path)
    (tmp_path / "router.yaml").write_text(POOLS.replace(", weights_file: w.yaml", ""))
    with pytest.raises(BadConfig, match=r"r.yaml:5:.*add routing.weights_file to .*router.yaml"):
        load(tmp_path / "router.yaml")
    (tmp_path / "router.yaml").write_text(POOLS.replace("w.yaml", "no-folder/w.yaml"))
    with pytest.raises(BadConfig, match=r"router.yaml:4:.*its folder does not exist; create the folder"):
        load(tmp_path / "router.yaml")


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("rollouts: {r: {to: next, percent: 101}}\n", "w.yaml:1:"),
        ("rollouts: {r: {to: next, percent: 5, since: soon}}\n", "write a time such as"),
        ("rollouts: {r: {to: next, percent: 5, since: '2026-01-01T00:00:00'}}\n", "has no time zone"),
        ("api_version: v9\n", "w.yaml:1:"),
        ("rollouts: {r: {to: next\n", "w.yaml:"),
        ("rules: []\n", "w.yaml:1:"),
    ],
)
def test_a_mistake_in_the_weights_file_names_its_line(tmp_path: Path, weights: str, said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        loaded(tmp_path, weights=weights)
    assert said in str(caught.value)
