"""Reads the configuration with its rules and weights, reports every mistake at once, and compiles the routing policy."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from platform_contracts.configuration_versions import KEY, Renamed, take_renamed, version_is_known
from platform_contracts.yaml_document import Document, Place, Problem, read
from router_service.config import former_keys
from router_service.config.compile import compile_policy, compile_when, shares_in_use
from router_service.config.model import Configuration
from router_service.config.redis_checks import check_redis
from router_service.config.rollout_checks import check_rollout, weights_document
from router_service.config.rollout_model import ShareSection, WeightsFile
from router_service.config.rules_model import RuleSection, RulesFile, RuleTest
from router_service.config.shadow_checks import check_shadows
from router_service.config.time_ladder import check_time_ladder
from router_service.config.typed import typed as _typed
from router_service.config.unchecked import at as _at
from router_service.config.unchecked import listed as _list
from router_service.config.unchecked import mapping as _mapping
from router_service.config.unchecked import must_be_pool as _must_be_pool
from router_service.routing.conditions.request import is_glob
from router_service.routing.hashing import digest
from router_service.routing.policy import ANY_MODEL, Policy
from router_service.routing.vocabulary import Reason


class BadConfig(Exception):
    """The configuration cannot be used. ``problems`` lists all mistakes; the text has one line per mistake."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """A configuration without mistakes. ``hash`` changes with any change of the configuration.

    ``files`` are the files it was read from, and the weights file, for file watchers. ``warnings`` name former keys in
    them. ``shares`` are the shares of rollouts, by rule; ``plain_hash`` is the hash without them.
    """

    values: Configuration
    policy: Policy
    rules: tuple[RuleSection, ...]
    tests: tuple[RuleTest, ...]
    files: tuple[Path, ...]
    hash: str
    warnings: tuple[str, ...] = ()
    shares: Mapping[str, ShareSection] = field(default_factory=dict)
    plain_hash: str = ""


def load(path: Path) -> RouterConfig:
    """Read ``path`` and the files it names: rules and weights.

    Raises:
        BadConfig: with every mistake in all files.
    """
    main = read(path)
    rules = Document(path)
    files = [path]
    values: Configuration | None = None
    rules_values: RulesFile | None = RulesFile()
    weights: Document | None = None
    weights_values: WeightsFile | None = WeightsFile()
    if _of_this_version(main, former_keys.CONFIGURATION, "docs/configuration.md"):
        values = _typed(main, Configuration)
        name = _at(main.data, "routing", "rules_file")
        if isinstance(name, str):
            rules = read(path.parent / name)
            files.append(rules.path)
            if not (path.parent / name).is_file():
                main.problem(("routing", "rules_file"), f'"{name}": no such file in the folder of this one')
                rules = Document(rules.path)
            rules_values = None
            if _of_this_version(rules, former_keys.RULES, "docs/routing-rules.md"):
                rules_values = _typed(rules, RulesFile)
                _check_rules(rules, main)
        weights = weights_document(main)
        if weights is not None:
            files.append(weights.path)
            if _of_this_version(weights, former_keys.WEIGHTS, "docs/guarded-rollouts.md"):
                weights_values = _typed(weights, WeightsFile)
        _check_main(main)
        check_time_ladder(main, rules)
        check_shadows(main, rules)
    documents = [one for one in (main, rules, weights) if one is not None]
    problems = [problem for one in documents for problem in one.problems]
    if problems or values is None or rules_values is None or weights_values is None:
        raise BadConfig(problems)
    plain_hash = digest(
        "configuration",
        json.dumps(values.model_dump(mode="json", exclude={KEY}), sort_keys=False),
        json.dumps(rules_values.model_dump(mode="json", exclude={KEY}), sort_keys=False),
    )[:12]
    shares = shares_in_use(rules_values.rules, weights_values)
    effective = sorted((rule, share.to, share.percent) for rule, share in shares.items())
    identity = digest("shares", plain_hash, json.dumps(effective))[:12] if shares else plain_hash
    policy = compile_policy(values, rules_values.rules, shares, identity)
    return RouterConfig(
        values,
        policy,
        tuple(rules_values.rules),
        tuple(rules_values.tests),
        tuple(files),
        identity,
        tuple(str(warning) for one in documents for warning in one.warnings),
        shares,
        plain_hash,
    )


def _of_this_version(document: Document, renamed: Iterable[Renamed], reference: str) -> bool:
    """Return whether the document's keys can be checked. Values of former keys are then at their new places."""
    if document.problems or not version_is_known(document, reference):
        return False
    take_renamed(document, renamed)
    return not document.problems


def _check_main(document: Document) -> None:
    _check_pools(document)
    _check_clients(document)
    _check_classes(document)
    check_redis(document)


def _check_pools(document: Document) -> None:
    """Check references between pools. Works on unchecked data, so that other mistakes do not hide these."""
    pools = _mapping(_at(document.data, "pools"))
    seen: dict[str, str] = {}
    for name, pool in pools.items():
        pool = _mapping(pool)
        here: Place = ("pools", name)
        if (pool.get("backends") is None) == (pool.get("discover") is None):
            document.problem(here, "needs exactly one of backends and discover")
        if pool.get("backends") == {}:
            document.problem((*here, "backends"), "is empty; name at least one backend")
        for backend in _mapping(pool.get("backends")):
            if backend in seen:
                document.problem(
                    (*here, "backends", backend), f'"{backend}" is already a backend of pool {seen[backend]}'
                )
            seen[str(backend)] = str(name)
        discover = _mapping(pool.get("discover"))
        if discover and (discover.get("dns") is None) == (discover.get("endpoint_slices") is None):
            document.problem((*here, "discover"), "needs exactly one of dns and endpoint_slices")
        models = pool.get("models")
        models = models if isinstance(models, list) else []
        for alias, model in _mapping(pool.get("aliases")).items():
            if model not in models and ANY_MODEL not in models:
                document.problem(
                    (*here, "aliases", alias),
                    f'"{model}" is not a model of this pool (known: {_list(models)})',
                )
    peers = _mapping(_at(document.data, "peers"))
    if _at(document.data, "peers") is not None and bool(peers.get("urls")) == (peers.get("dns") is not None):
        document.problem(("peers",), "needs exactly one of urls and dns")
    _must_be_pool(document, ("routing", "default_pool"), pools)
    for name, others in _mapping(_at(document.data, "routing", "fallback")).items():
        place: Place = ("routing", "fallback", name)
        if name not in pools:
            document.problem(place, f'"{name}" is not a pool (known: {_list(pools)})')
        for index, other in enumerate(others if isinstance(others, list) else []):
            _must_be_pool(document, (*place, index), pools)
            if other == name:
                document.problem((*place, index), f'"{name}" cannot be its own fallback')


def _check_clients(document: Document) -> None:
    """Check that a pool serves every model in the clients' lists; globs may match models that do not exist yet."""
    served: set[str] = set()
    for pool in _mapping(_at(document.data, "pools")).values():
        models = _at(pool, "models")
        served.update(str(name) for name in (models if isinstance(models, list) else []))
        served.update(str(alias) for alias in _mapping(_at(pool, "aliases")))
    if ANY_MODEL in served:
        return
    for client, names in _mapping(_at(document.data, "clients", "models")).items():
        for index, name in enumerate(names if isinstance(names, list) else []):
            if isinstance(name, str) and name not in served and not is_glob(name):
                near = get_close_matches(name, served, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                document.problem(
                    ("clients", "models", client, index),
                    f'"{name}" is served by no pool ({hint}known: {_list(served)})',
                )


def _check_classes(document: Document) -> None:
    """Check that all shares together are at most 1, and that each client and service tier has only one class."""
    total = 0.0
    owners: dict[tuple[str, str], str] = {}
    for name, section in _mapping(_at(document.data, "classes")).items():
        share = _at(section, "share")
        total += share if isinstance(share, int | float) and not isinstance(share, bool) else 0.0
        if total > 1.0 + 1e-9:
            document.problem(
                ("classes", name, "share"), f"all shares together are {total:g}, over 1; lower some"
            )
            return
        for key in ("clients", "service_tiers"):
            values = _at(section, key)
            for index, value in enumerate(values if isinstance(values, list) else []):
                owner = owners.setdefault((key, str(value)), str(name))
                if owner != name:
                    document.problem(
                        ("classes", name, key, index), f'"{value}" has the class {owner} already; remove one'
                    )


def _check_rules(document: Document, main: Document) -> None:
    pools = _mapping(_at(main.data, "pools"))
    rules = _at(document.data, "rules")
    names: set[str] = set()
    for index, rule in enumerate(rules if isinstance(rules, list) else []):
        rule = _mapping(rule)
        name = rule.get("name")
        if name in names:
            document.problem(("rules", index, "name"), f'"{name}" is the name of an earlier rule, too')
        if name == "default":
            document.problem(
                ("rules", index, "name"), '"default" means that no rule matched; choose another name'
            )
        names.add(str(name))
        target = rule.get("route_to")
        _check_action(document, rule, ("rules", index))
        check_rollout(document, rule, ("rules", index), main)
        _must_be_class(document, ("rules", index, "request_class"), main)
        if isinstance(target, list):
            if not target:
                document.problem(("rules", index, "route_to"), "is empty; name at least one pool")
            for number in range(len(target)):
                _must_be_pool(document, ("rules", index, "route_to", number, "pool"), pools)
        else:
            _must_be_pool(document, ("rules", index, "route_to"), pools)
        if isinstance(rule.get("when"), Mapping):
            for place, message in compile_when(rule["when"], ("rules", index, "when")).problems:
                document.problem(place, message)
    tests = _at(document.data, "tests")
    for index in range(len(tests) if isinstance(tests, list) else 0):
        expected = _mapping(_at(tests, index, "expect"))
        if expected.get("pool") is not None:
            _must_be_pool(document, ("tests", index, "expect", "pool"), pools)
        reason = expected.get("reason")
        if isinstance(reason, str) and reason not in set(Reason):
            document.problem(
                ("tests", index, "expect", "reason"),
                f'"{reason}" is not a reason (known: {", ".join(Reason)})',
            )
        if expected == {} and isinstance(_at(tests, index, "expect"), Mapping):
            document.problem(("tests", index, "expect"), "is empty; name a pool, a rule or a reason")
        rule_name = expected.get("rule")
        if rule_name is not None and rule_name != "default" and rule_name not in names:
            document.problem(
                ("tests", index, "expect", "rule"), f'"{rule_name}" is not a rule (known: {_list(names)})'
            )


_ROUTING_KEYS = (
    *("split_by", "policy", "timeouts", "resume", "engine_fields", "request_class", "shadow", "rollout"),
)


def _check_action(document: Document, rule: Mapping[str, Any], place: Place) -> None:
    """A rule either routes or refuses, and a refusal has no keys of a route."""
    refuses = rule.get("refuse") is not None
    if refuses == (rule.get("route_to") is not None):
        document.problem(place, "needs exactly one of route_to and refuse")
    for key in _ROUTING_KEYS if refuses else ():
        if key in rule:
            document.problem((*place, key), "has no effect in a rule that refuses; remove it")


def _must_be_class(document: Document, place: Place, main: Document) -> None:
    value = _at(document.data, *place)
    classes = _mapping(_at(main.data, "classes"))
    if isinstance(value, str) and value not in classes:
        document.problem(place, f'"{value}" is not one of `classes` (known: {_list(classes)})')
