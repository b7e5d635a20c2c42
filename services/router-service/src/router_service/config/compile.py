"""Compiles the typed configuration into the routing policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from platform_contracts.yaml_document import Place
from router_service.config.client_model import ClassSection, Clients
from router_service.config.model import Configuration, TimeoutsSection
from router_service.config.rollout_model import ShareSection, WeightsFile
from router_service.config.rules_model import RuleSection
from router_service.routing.access import ModelAccess
from router_service.routing.classes import Classes
from router_service.routing.conditions import Condition, kinds, make
from router_service.routing.policy import Policy, Pool
from router_service.routing.privacy import Privacy
from router_service.routing.rules import Group, Rule, RuleRefusal, Shadow, Share, Target, Timeouts

_JOINS = ("all", "any", "not")


@dataclass
class When:
    """The compiled conditions of a rule, and the mistakes found in them."""

    group: Group
    problems: list[tuple[Place, str]] = field(default_factory=list)


def compile_when(when: Mapping[str, Any], place: Place) -> When:
    """Compile the conditions at ``place``; mistakes are collected, not raised."""
    problems: list[tuple[Place, str]] = []
    return When(_group("all", when, place, problems), problems)


def _group(
    join: Literal["all", "any", "not"], value: Any, place: Place, problems: list[tuple[Place, str]]
) -> Group:
    """Compile a group. A mapping is a set of conditions that must all hold; a list has one such mapping per item."""
    members: list[Condition | Group] = []
    if isinstance(value, list):
        for index, item in enumerate(value):
            members.append(_group("all", item, (*place, index), problems))
        if not value:
            problems.append((place, "is empty; give it conditions"))
    elif isinstance(value, Mapping):
        if not value and join != "all":
            problems.append((place, "is empty; give it conditions"))
        for name, inner in value.items():
            here: Place = (*place, str(name))
            if name in _JOINS:
                members.append(_group(name, inner, here, problems))
            elif name in kinds():
                try:
                    members.append(make(str(name), inner))
                except ValueError as error:
                    problems.append((here, str(error)))
            else:
                known = [*kinds(), *_JOINS]
                near = get_close_matches(str(name), known, 1)
                hint = f"did you mean {near[0]}? " if near else ""
                problems.append((here, f"is not a condition ({hint}known: {', '.join(known)})"))
        if join != "all" and value:
            members = [Group("all", tuple(members))]
    else:
        problems.append((place, f"{value!r} is neither conditions nor a list of them"))
    return Group(join, tuple(members))


def shares_in_use(rules: Sequence[RuleSection], weights: WeightsFile) -> dict[str, ShareSection]:
    """Return the shares of the weights file that belong to a rollout: its rule has one, to the same pool."""
    return {
        rule.name: share
        for rule in rules
        if rule.rollout is not None
        and (share := weights.rollouts.get(rule.name)) is not None
        and share.to == rule.rollout.to
    }


def compile_policy(
    values: Configuration, rules: Sequence[RuleSection], shares: Mapping[str, ShareSection], identity: str
) -> Policy:
    """Build the policy of a configuration that has no mistakes. ``shares`` are those of rollouts, by rule."""
    timeouts = compile_timeouts(values.timeouts)
    return Policy(
        pools={
            name: Pool(
                name,
                pool.policy,
                tuple(pool.models),
                dict(pool.aliases),
                {} if pool.engine_knows_aliases else dict(pool.aliases),
            )
            for name, pool in values.pools.items()
        },
        rules=tuple(_rule(rule, timeouts, shares.get(rule.name)) for rule in rules),
        default_pool=values.routing.default_pool,
        fallback={name: tuple(others) for name, others in values.routing.fallback.items()},
        timeouts=timeouts,
        affinity=values.affinity.enabled,
        max_ejected_ratio=values.breaker.max_ejected_ratio,
        privacy=Privacy(
            tuple(values.privacy.share_prefixes_between), tuple(values.privacy.show_engine_metrics_to)
        ),
        access=_access(values.clients),
        classes=_classes(values.classes),
        hash=identity,
    )


def _access(section: Clients) -> ModelAccess | None:
    if not section.models:
        return None
    models = {client: tuple(names) for client, names in section.models.items()}
    return ModelAccess(models, section.hide_forbidden)


def _classes(sections: Mapping[str, ClassSection]) -> Classes | None:
    if not sections:
        return None
    return Classes(
        {client: name for name, section in sections.items() for client in section.clients},
        {tier: name for name, section in sections.items() for tier in section.service_tiers},
        {name: section.priority for name, section in sections.items() if section.priority is not None},
    )


def compile_timeouts(section: TimeoutsSection) -> Timeouts:
    """The configuration's timeouts as the pipeline uses them."""
    return Timeouts(**section.model_dump(exclude={"edge_silence_seconds"}))


def _rule(rule: RuleSection, base: Timeouts, share: ShareSection | None) -> Rule:
    target = rule.route_to or ()
    targets = (
        (Target(target),) if isinstance(target, str) else tuple(Target(t.pool, t.weight) for t in target)
    )
    rollout = None
    if rule.rollout is not None:
        rollout = Share(rule.rollout.to, share.percent if share is not None else 0.0)
        if rollout.percent:
            # The new pool comes first: a rising share moves sessions only to it, a falling one only back.
            targets = (Target(rollout.to, rollout.percent), Target(targets[0].pool, 100.0 - rollout.percent))
    refusal = None if rule.refuse is None else RuleRefusal(rule.refuse.status, rule.refuse.message)
    timeouts = None
    if rule.timeouts is not None:
        own = {name: value for name, value in rule.timeouts.model_dump().items() if value is not None}
        inherited = {name: getattr(base, name) for name in Timeouts.__dataclass_fields__}
        timeouts = Timeouts(**{**inherited, **own})
    return Rule(
        name=rule.name,
        when=compile_when(rule.when, ()).group,
        targets=targets,
        split_by=rule.split_by,
        timeouts=timeouts,
        policy=rule.policy,
        resume=rule.resume,
        engine_fields={str(name): value for name, value in rule.engine_fields.items()},
        refusal=refusal,
        request_class=rule.request_class or "",
        shadow=None if rule.shadow is None else Shadow(rule.shadow.pool, rule.shadow.percent),
        rollout=rollout,
    )
