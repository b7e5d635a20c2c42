"""`check` warns of a rollout or shadow whose second pool gets no request, with its line and what to do."""

from pathlib import Path

import pytest

from router_service.cli.lint import lint
from router_service.config import load

MAIN = """pools:
  live: {models: [a-7b, a-70b], aliases: {chat: a-7b}, backends: {l: {url: 'http://h:1'}}}
  next: {models: [b-7b], backends: {n: {url: 'http://h:2'}}}
  named: {models: [b-7b], aliases: {chat: b-7b}, backends: {k: {url: 'http://h:3'}}}
  large: {models: [a-70b], backends: {g: {url: 'http://h:4'}}}
  any: {models: ['*'], backends: {y: {url: 'http://h:5'}}}
routing: {default_pool: live, rules_file: r.yaml, weights_file: w.yaml}
"""
SECOND = {
    "rollout": "rollout: {to: POOL, objectives: {errors: 0.1}}",
    "shadow": "shadow: {pool: POOL, percent: 5}",
}


def warned(folder: Path, when: str, first: str, kind: str, second: str, percent: int = 0) -> list[str]:
    (folder / "router.yaml").write_text(MAIN)
    rule = (
        f"  - name: r\n    when: {when}\n    route_to: {first}\n    {SECOND[kind].replace('POOL', second)}\n"
    )
    (folder / "r.yaml").write_text("rules:\n" + rule)
    (folder / "w.yaml").write_text(f"rollouts: {{r: {{to: {second}, percent: {percent}}}}}\n")
    return [one for one in lint(load(folder / "router.yaml")) if "nothing:" in one]


@pytest.mark.parametrize("kind", ["rollout", "shadow"])
@pytest.mark.parametrize(
    ("when", "first", "second", "warns"),
    [
        ("{}", "live", "next", True),
        ("{}", "live", "named", False),
        ("{}", "live", "large", False),
        ("{}", "any", "next", False),
        ("{}", "live", "any", False),
        ("{model: a-7b}", "live", "large", True),
        ("{model: ['a-*', chat]}", "live", "named", False),
        ("{model: a-*}", "live", "named", True),
        ("{model: a-*}", "any", "next", True),
        ("{any: [{model: a-7b}, {stream: true}]}", "live", "large", False),
        ("{all: [{model: a-7b}]}", "live", "large", True),
    ],
)
def test_a_second_pool_without_a_model_of_the_rule_is_named(
    tmp_path: Path, kind: str, when: str, first: str, second: str, warns: bool
) -> None:
    assert bool(warned(tmp_path, when, first, kind, second)) == warns
    if kind == "rollout":
        assert bool(warned(tmp_path, when, first, kind, second, percent=100)) == warns


def test_the_warning_has_line_models_and_remedy(tmp_path: Path) -> None:
    assert warned(tmp_path, "{model: a-7b}", "live", "rollout", "next") == [
        f"{tmp_path / 'r.yaml'}:5:19: rules[0].rollout.to: rule r moves nothing: next serves b-7b, and no model of live "
        "(a-70b, a-7b, chat) and its conditions; name another pool, or add one of these models, or an alias, to pools.next"
    ]
