"""The decision itself: a pure function of the request, the snapshot, the policy and the time."""

from collections.abc import Sequence

from router_service.routing.decision import Decision, read
from router_service.routing.features import Features
from router_service.routing.policies import POLICIES, session_scores
from router_service.routing.policy import Policy
from router_service.routing.rules import Rule
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import AffinityState, Reason, RejectedBecause, Unroutable

_ATTEMPT_REASON = {"retry": Reason.RETRY, "resume": Reason.RESUME}


def decide(features: Features, snapshot: Snapshot, policy: Policy, now: float) -> Decision:
    """Choose a backend for one attempt of a request.

    First a pool: that of the first matching rule that serves the model, else the default pool, else the
    first pool that does. Then a backend in it; its fallbacks are asked only when nothing in it is ready.
    When backends are ready but all at their limit the request is to wait, not to go elsewhere.

    ``now`` is on the clock of the snapshot's times (seconds). It is an argument, not read, and is kept for
    policies that weigh ages.
    """
    decision = Decision()
    first = _pool_for(features, policy, decision)
    if first is None:
        decision.unroutable = Unroutable.MODEL_NOT_FOUND
        return decision
    decision.first_pool = decision.pool = first
    waiting_pool = ""
    for name in (first, *policy.fallback.get(first, ())):
        view = snapshot.pools.get(name)
        if view is None:
            continue
        if name != first and not policy.pools[name].serves(features.model):
            decision.rejected += [(read(b), RejectedBecause.MODEL_NOT_SERVED) for b in view.backends]
            continue
        eligible, at_limit = _eligible(view, snapshot, policy, decision)
        if eligible:
            _choose(eligible, view, features, snapshot, policy, decision, is_fallback=name != first)
            return decision
        if at_limit:
            waiting_pool = name
            break
    decision.pool = waiting_pool or first
    decision.policy = _policy_name(decision.pool, policy, decision.rule)
    decision.unroutable = Unroutable.ALL_AT_LIMIT if waiting_pool else Unroutable.NONE_READY
    return decision


def _pool_for(features: Features, policy: Policy, decision: Decision) -> str | None:
    pools = policy.pools
    model = features.model

    def serving(name: str) -> bool:
        return pools[name].serves(model)

    for rule in policy.rules:
        if rule.matches(features):
            pool = rule.pool_for(features, serving)
            if pool is not None:
                decision.rule = rule
                return pool
            decision.passed_over.append(rule.name)
    if pools[policy.default_pool].serves(model):
        return policy.default_pool
    for name, pool_config in pools.items():
        if pool_config.serves(model):
            return name
    return None


def _eligible(
    view: PoolView, snapshot: Snapshot, policy: Policy, decision: Decision
) -> tuple[list[BackendView], bool]:
    """Sort a pool's backends into those that may take the request and, with the reason, all others.

    At most ``max_ejected_ratio`` of a pool (but always one backend) is held back by open breakers: past
    that the remaining ones are let through, in configured order.
    """
    decision.round_robin[view.name] = view.round_robin
    may_eject = max(1, int((len(view.backends) + view.unseen) * policy.max_ejected_ratio))
    ejected = 0
    at_limit = False
    eligible: list[BackendView] = []
    tried = snapshot.tried
    for backend in view.backends:
        rejected = backend.unusable
        if rejected is None:
            if tried and backend.name in tried:
                rejected = RejectedBecause.ALREADY_TRIED
            elif backend.breaker_open and ejected < may_eject:
                ejected += 1
                rejected = RejectedBecause.BREAKER_OPEN
            elif backend.in_flight >= (
                backend.limit if backend.ramp == 1.0 else max(1, int(backend.limit * backend.ramp))
            ):
                rejected = RejectedBecause.AT_LIMIT
                at_limit = True
            else:
                eligible.append(backend)
                continue
        decision.rejected.append((read(backend), rejected))
    return eligible, at_limit


def _choose(
    eligible: Sequence[BackendView],
    view: PoolView,
    features: Features,
    snapshot: Snapshot,
    policy: Policy,
    decision: Decision,
    *,
    is_fallback: bool,
) -> None:
    decision.pool = view.name
    decision.policy = _policy_name(view.name, policy, decision.rule)
    choose, reason = POLICIES[decision.policy]
    pinned: BackendView | None = None
    if policy.affinity and features.session:
        decision.affinity = AffinityState.PLACED
        reason = Reason.SESSION_AFFINITY
        choose = session_scores
        pin = snapshot.pin if snapshot.find_pin is None else snapshot.find_pin(view.name)
        if pin:
            decision.pin = pin
            pinned = next((b for b in eligible if b.name == pin), None)
            decision.affinity = AffinityState.KEPT if pinned is not None else AffinityState.BROKEN
            reason = Reason.SESSION_AFFINITY if pinned is not None else Reason.AFFINITY_BROKEN
    elif len(eligible) == 1:
        reason = Reason.ONLY_CANDIDATE
    scores = choose(eligible, view, features)
    decision.eligible = list(map(read, eligible))
    decision.scores = scores
    decision.chosen = pinned if pinned is not None else eligible[scores.index(min(scores))]
    if snapshot.attempt != "first":
        reason = _ATTEMPT_REASON[snapshot.attempt]
    elif is_fallback:
        reason = Reason.FALLBACK
    decision.reason = reason


def _policy_name(pool: str, policy: Policy, rule: Rule | None) -> str:
    return (rule.policy if rule is not None else None) or policy.pools[pool].policy
