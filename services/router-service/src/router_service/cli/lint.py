"""What is allowed in a configuration but probably not meant."""

from itertools import combinations

from router_service.cli.implication import contradictory, implies, is_glob, phrase_within, texts
from router_service.cli.trial import try_request
from router_service.config import RouterConfig
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.routing.conditions import Condition
from router_service.routing.conditions.request import name_matcher
from router_service.routing.policy import ANY_MODEL, Policy
from router_service.routing.rules import Group, Rule


def lint(config: RouterConfig) -> list[str]:
    """Return one sentence per finding, in a stable order."""
    policy = config.policy
    return [
        *_unreachable(policy),
        *_unmeetable(policy),
        *_unknown_models(policy),
        *_unknown_paths(config),
        *_useless_fallbacks(policy),
        *_overlapping_keywords(policy),
        *_untested(config),
    ]


def _unreachable(policy: Policy) -> list[str]:
    """A rule is never asked when an earlier one, for the same pool or any model, always matches before it."""
    found = []
    for index, rule in enumerate(policy.rules):
        for earlier in policy.rules[:index]:
            if implies(rule.when, earlier.when) and _takes_all_that(earlier, rule, policy):
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


def _unmeetable(policy: Policy) -> list[str]:
    """Rules that no request can meet, and rules whose pools serve none of the models they ask for."""
    found = [
        f"rule {rule.name} never applies: its conditions contradict each other"
        for rule in policy.rules
        if contradictory(rule.when)
    ]
    for rule in policy.rules:
        pools = [policy.pools[target.pool] for target in rule.targets]
        for condition in _required(rule.when, "model"):
            matches = name_matcher(sorted(texts(condition)))
            served = any(
                pool.serves_any
                or any(matches(model) for model in pool.served)
                or texts(condition) & pool.served
                for pool in pools
            )
            if not served:
                names = ", ".join(sorted({pool.name for pool in pools}))
                found.append(f"rule {rule.name} never applies: {names} serves no model that it asks for")
    return found


def _required(group: Group, kind: str) -> list[Condition]:
    """The conditions of a kind that a request must meet, whatever else it meets."""
    if group.join != "all":
        return []
    found = []
    for member in group.members:
        if isinstance(member, Group):
            found += _required(member, kind)
        elif member.kind.name == kind:
            found.append(member)
    return found


def _unknown_paths(config: RouterConfig) -> list[str]:
    found = [
        f"rule {rule.name} looks at path {path}, which is no inference path"
        for rule in config.policy.rules
        for condition in rule.when.conditions()
        if condition.kind.name == "path"
        for path in sorted(texts(condition))
        if path not in INFERENCE_PATHS
    ]
    return found + [
        f'test "{test.name}" asks {test.path}, which is no inference path'
        for test in config.tests
        if test.path not in INFERENCE_PATHS
    ]


def _unknown_models(policy: Policy) -> list[str]:
    if any(pool.serves_any for pool in policy.pools.values()):
        return []
    known = set(policy.models())
    return [
        f'rule {rule.name} asks for model "{name}", which no pool serves'
        for rule in policy.rules
        for condition in rule.when.conditions()
        if condition.kind.name == "model"
        for name in sorted(texts(condition))
        if not is_glob(name) and name not in known
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
    """Keywords of two rules that the same text holds: the same word, or one inside the other's phrase."""
    words_of = {
        rule.name: {
            word
            for condition in rule.when.conditions()
            if condition.kind.name == "any_keywords"
            for word in texts(condition)
        }
        for rule in policy.rules
    }
    found = []
    for first, second in combinations(policy.rules, 2):
        if first.targets == second.targets:
            continue
        both = sorted(
            {
                other.casefold()
                for word in words_of[first.name]
                for other in words_of[second.name]
                if phrase_within(word, other) or phrase_within(other, word)
            }
        )
        if both:
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
