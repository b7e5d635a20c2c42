"""Finds parts of a valid configuration that are probably mistakes."""

from itertools import combinations

from router_service.cli.implication import contradictory, implies, phrase_within, required, texts
from router_service.cli.lint_second_pools import useless_second_pools
from router_service.config import RouterConfig
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.dry_run import dry_run_idle
from router_service.routing.conditions.request import is_glob, name_matcher
from router_service.routing.policy import ANY_MODEL, Policy
from router_service.routing.rules import Rule


def lint(config: RouterConfig) -> list[str]:
    """Return one sentence per finding, in a stable order."""
    policy = config.policy
    return [
        *_unreachable(policy),
        *_unmeetable(policy),
        *_trusted_aliases(policy),
        *_unknown_models(policy),
        *_useless_model_lists(policy),
        *_unknown_paths(config),
        *_useless_fallbacks(policy),
        *useless_second_pools(config),
        *_overlapping_keywords(policy),
        *_untested(config),
    ]


def _unreachable(policy: Policy) -> list[str]:
    """Find rules that an earlier rule for the same pool or any model always precedes."""
    found = []
    for index, rule in enumerate(policy.rules):
        for earlier in policy.rules[:index]:
            if implies(rule.when, earlier.when) and _takes_all_that(earlier, rule, policy):
                found.append(
                    f"rule {rule.name} is never reached: {earlier.name} matches the same requests first; move it up"
                )
                break
    return found


def _takes_all_that(earlier: Rule, rule: Rule, policy: Policy) -> bool:
    """Return whether ``earlier`` refuses, or a pool of it serves, every model that ``rule`` could route."""
    if earlier.refusal is not None:
        return True
    if rule.refusal is not None:
        return any(ANY_MODEL in policy.pools[target.pool].served for target in earlier.targets)
    first = {name for target in earlier.targets for name in policy.pools[target.pool].served}
    wanted = {name for target in rule.targets for name in policy.pools[target.pool].served}
    return ANY_MODEL in first or wanted <= first


def _unmeetable(policy: Policy) -> list[str]:
    """Find rules that no request can meet, and rules whose pools serve none of the models in their conditions."""
    found = [
        f"rule {rule.name} never applies: its conditions contradict each other"
        for rule in policy.rules
        if contradictory(rule.when)
    ]
    for rule in policy.rules:
        if rule.refusal is not None:
            continue
        pools = [policy.pools[target.pool] for target in rule.targets]
        for condition in required(rule.when, "model"):
            matches = name_matcher(sorted(texts(condition)))
            served = any(
                pool.serves_any
                or any(matches(model) for model in pool.served)
                or texts(condition) & pool.served
                for pool in pools
            )
            if not served:
                names = ", ".join(sorted({pool.name for pool in pools}))
                found.append(f"rule {rule.name} never applies: {names} serves no model in its conditions")
    return found


def _trusted_aliases(policy: Policy) -> list[str]:
    """Find aliases that the router forwards unchanged: an engine started without them answers 404."""
    return [
        f"pool {pool.name} leaves its aliases {', '.join(sorted(pool.aliases))} to its engines "
        "(engine_knows_aliases): start each of its engines with these names"
        for pool in policy.pools.values()
        if pool.aliases and not pool.rewrites
    ]


def _unknown_paths(config: RouterConfig) -> list[str]:
    found = [
        f"rule {rule.name} tests for path {path}, which is not an inference path"
        for rule in config.policy.rules
        for condition in rule.when.conditions()
        if condition.kind.name == "path"
        for path in sorted(texts(condition))
        if path not in INFERENCE_PATHS
    ]
    return found + [
        f'test "{test.name}" has path {test.path}, which is not an inference path'
        for test in config.tests
        if test.path not in INFERENCE_PATHS
    ]


def _unknown_models(policy: Policy) -> list[str]:
    if any(pool.serves_any for pool in policy.pools.values()):
        return []
    known = set(policy.models())
    return [
        f'rule {rule.name} tests for model "{name}", which no pool serves'
        for rule in policy.rules
        for condition in rule.when.conditions()
        if condition.kind.name == "model"
        for name in sorted(texts(condition))
        if not is_glob(name) and name not in known
    ]


def _useless_model_lists(policy: Policy) -> list[str]:
    """Find lists of models that allow a client nothing."""
    if policy.access is None or any(pool.serves_any for pool in policy.pools.values()):
        return []
    return [
        f'clients.models: "{client}" may use {", ".join(names) or "no model"}, and no pool serves any of these'
        for client, names in policy.access.models.items()
        if not any(map(name_matcher(names), policy.named))
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
    """Find keywords of two rules that the same text can match: equal words, or a word within the other's phrase."""
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
        if first.targets == second.targets and first.refusal == second.refusal:
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
                f"rules {first.name} and {second.name} both match {', '.join(both)}: the first takes the request"
            )
    return found


def _untested(config: RouterConfig) -> list[str]:
    matched = set()
    for test in config.tests:
        _, decision = dry_run_idle(
            config, test.request, path=test.path, headers=test.headers, client_id=test.client_id
        )
        matched.add(decision.rule_name)
    return [f"no test covers rule {rule.name}" for rule in config.policy.rules if rule.name not in matched]
