"""Finds shadows and rollouts whose second pool gets no request, and shadow pools that clients reach without a rule."""

from platform_contracts.yaml_document import Document, Problem, key_of, read
from router_service.cli.implication import required, texts
from router_service.config import RouterConfig
from router_service.routing.conditions.request import name_matcher
from router_service.routing.policy import Policy, Pool
from router_service.routing.rules import Rule


def useless_second_pools(config: RouterConfig) -> list[str]:
    """Return a sentence for each finding; those about one pool's models begin with its line in the rules file."""
    policy = config.policy
    found = []
    document: Document | None = None
    for index, (rule, section) in enumerate(zip(policy.rules, config.rules, strict=True)):
        shadow = rule.shadow
        if shadow is not None and not shadow.percent:
            found.append(f"rule {rule.name} copies nothing: percent of its shadow is 0")
        for key, pool, effect in (
            (("shadow", "pool"), None if shadow is None or not shadow.percent else shadow.pool, "copies"),
            (("rollout", "to"), None if section.rollout is None else section.rollout.to, "moves"),
        ):
            if pool is None or _gets_something(policy, rule, policy.pools[pool]):
                continue
            document = document or read(config.files[1])
            place = ("rules", index, *key)
            line, column = document.marks.get(place, (1, 1))
            found.append(
                str(
                    Problem(
                        str(document.path), line, column, key_of(place), _sentence(policy, rule, pool, effect)
                    )
                )
            )
        if shadow is not None:
            found += _reached_without_a_rule(policy, rule, shadow.pool)
    return found


def _first_pools(policy: Policy, rule: Rule) -> list[Pool]:
    """Return the pools of the rule without that of its rollout."""
    new = rule.rollout.to if rule.rollout is not None else None
    return [policy.pools[target.pool] for target in rule.targets if target.pool != new]


def _gets_something(policy: Policy, rule: Rule, second: Pool) -> bool:
    """Return whether ``second`` serves a model that the rule can match. A pool of any model serves some."""
    if second.serves_any:
        return True
    matchers = [name_matcher(sorted(texts(condition))) for condition in required(rule.when, "model")]
    return any(
        all(matches(model) for matches in matchers)
        and any(pool.serves(model) for pool in _first_pools(policy, rule))
        for model in second.served
    )


def _sentence(policy: Policy, rule: Rule, second: str, effect: str) -> str:
    first = _first_pools(policy, rule)
    names = ", ".join(sorted(pool.name for pool in first))
    models = ", ".join(sorted({model for pool in first for model in pool.served}))
    own = ", ".join(sorted(policy.pools[second].served)) or "nothing"
    condition = " and its conditions" if required(rule.when, "model") else ""
    return (
        f"rule {rule.name} {effect} nothing: {second} serves {own}, and no model of {names} ({models}){condition}; "
        f"name another pool, or add one of these models, or an alias, to pools.{second}"
    )


def _reached_without_a_rule(policy: Policy, rule: Rule, shadow: str) -> list[str]:
    pool = policy.pools[shadow]
    others = [other for other in policy.pools.values() if other is not pool]
    own = sorted(model for model in pool.served if not any(other.serves(model) for other in others))
    if not own or any(target.pool == pool.name for one in policy.rules for target in one.targets):
        return []
    return [
        f"requests for {', '.join(own)} go to {pool.name}, the shadow pool of rule {rule.name}: no other pool "
        "serves these models"
    ]
