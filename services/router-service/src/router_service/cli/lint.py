"""What is allowed in a configuration but probably not meant."""

from itertools import pairwise

from router_service.cli.trial import try_request
from router_service.config import RouterConfig
from router_service.routing.conditions import Condition
from router_service.routing.policy import ANY_MODEL, Policy
from router_service.routing.rules import Group, Rule


def lint(config: RouterConfig) -> list[str]:
    """Return one sentence per finding, in a stable order."""
    policy = config.policy
    return [
        *_unreachable(policy),
        *_unknown_models(policy),
        *_useless_fallbacks(policy),
        *_overlapping_keywords(policy),
        *_untested(config),
    ]


def _unreachable(policy: Policy) -> list[str]:
    """A rule is never asked when an earlier one, for the same pool or any model, always matches before it."""
    found = []
    for index, rule in enumerate(policy.rules):
        for earlier in policy.rules[:index]:
            if _implies(rule.when, earlier.when) and _takes_all_that(earlier, rule, policy):
                found.append(
                    f"rule {rule.name} is never reached: {earlier.name} matches whatever it would; move it up"
                )
                break
    return found


def _takes_all_that(earlier: Rule, rule: Rule, policy: Policy) -> bool:
    """Whether every model that ``rule`` could route is served by a pool of ``earlier``."""
    first = {name for target in earlier.targets for name in policy.pools[target.pool].served}
    wanted = {name for target in rule.targets for name in policy.pools[target.pool].served}
    return ANY_MODEL in first or wanted <= first


def _implies(strong: Group, weak: Group) -> bool:
    """Whether every request that matches ``strong`` surely matches ``weak`` (may say no when it does)."""
    if weak.join != "all":
        return any(member == weak for member in strong.members) if strong.join == "all" else strong == weak
    if strong.join != "all":
        return not weak.members
    return all(any(_member_implies(s, w) for s in strong.members) for w in weak.members)


def _member_implies(strong: Condition | Group, weak: Condition | Group) -> bool:
    if isinstance(strong, Group) or isinstance(weak, Group):
        return strong == weak
    if strong.kind.name != weak.kind.name:
        return False
    if strong.kind.name.endswith("_gte"):
        return bool(strong.value >= weak.value)
    if strong.kind.name.endswith("_lte"):
        return bool(strong.value <= weak.value)
    if strong.kind.name in ("any_keywords", "model", "path", "client_id"):
        return _texts(strong) <= _texts(weak)
    return strong.hash == weak.hash


def _texts(condition: Condition) -> set[str]:
    value = condition.value
    return {value} if isinstance(value, str) else set(value)


def _unknown_models(policy: Policy) -> list[str]:
    if any(pool.serves_any for pool in policy.pools.values()):
        return []
    known = set(policy.models())
    return [
        f'rule {rule.name} asks for model "{name}", which no pool serves'
        for rule in policy.rules
        for condition in rule.when.conditions()
        if condition.kind.name == "model"
        for name in sorted(_texts(condition))
        if not any(sign in name for sign in "*?[") and name not in known
    ]


def _useless_fallbacks(policy: Policy) -> list[str]:
    found = []
    for name, others in policy.fallback.items():
        pool = policy.pools[name]
        for other in others:
            backup = policy.pools[other]
            missing = [m for m in pool.served if not backup.serves(m)]
            if len(missing) == len(pool.served):
                found.append(f"fallback {other} of pool {name} serves none of its models")
            elif missing:
                found.append(f"fallback {other} of pool {name} does not serve {', '.join(sorted(missing))}")
    return found


def _overlapping_keywords(policy: Policy) -> list[str]:
    keyword_rules = [
        (
            rule,
            {
                w.casefold()
                for c in rule.when.conditions()
                if c.kind.name == "any_keywords"
                for w in _texts(c)
            },
        )
        for rule in policy.rules
    ]
    keyword_rules = [(rule, words) for rule, words in keyword_rules if words]
    found = []
    for (first, words), (second, others) in pairwise(keyword_rules):
        both = sorted(words & others)
        if both and first.targets != second.targets:
            found.append(
                f"rules {first.name} and {second.name} both look for {', '.join(both)}: the first takes it"
            )
    return found


def _untested(config: RouterConfig) -> list[str]:
    matched = set()
    for test in config.tests:
        _, decision = try_request(
            config, test.request, path=test.path, headers=test.headers, client_id=test.client_id
        )
        matched.add(decision.rule_name)
    return [f"no test covers rule {rule.name}" for rule in config.policy.rules if rule.name not in matched]
