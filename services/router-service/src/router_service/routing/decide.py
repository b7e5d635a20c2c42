"""The routing decision: a pure function of the request, the snapshot, the policy and the time."""

from router_service.routing.considered import Considered, Listed, Sorted, refuse_all
from router_service.routing.decision import Decision, read
from router_service.routing.features import Features
from router_service.routing.load import slots_of
from router_service.routing.policies import POLICIES, session_scores
from router_service.routing.policy import Policy
from router_service.routing.rules import Rule
from router_service.routing.snapshot import BackendView, PoolView, Snapshot
from router_service.routing.vocabulary import AffinityState, Reason, RejectedBecause, Unroutable

_ATTEMPT_REASON = {"retry": Reason.RETRY, "resume": Reason.RESUME}


def decide(features: Features, snapshot: Snapshot, policy: Policy, now: float) -> Decision:
    """Choose a backend for one attempt of a request.

    First check whether the client may use the model. Then choose the pool: that of the first matching rule that
    serves the model, else the default pool, else the first pool that does; a matching rule that refuses ends the
    decision. A request that continues a stored response goes to the backend that has it, or nowhere. Other requests go to
    a backend in the pool. Fallbacks are used only if no backend of the pool is ready. If backends are ready but all are at
    their limit, the request waits.

    ``now`` is on the clock of the snapshot's times (seconds), for policies that weigh ages. It is an argument because
    this function must not read a clock.
    """
    decision = Decision()
    first = _pool_for(features, policy, decision)
    if first is None:
        if decision.unroutable is None:
            decision.unroutable = Unroutable.MODEL_NOT_FOUND
        return decision
    if snapshot.home:
        first = _home(snapshot.home, features, policy, decision) or first
    decision.first_pool = decision.pool = first
    if policy.classes is not None:
        of_rule = decision.rule.request_class if decision.rule is not None else ""
        decision.class_name = policy.classes.name_for(of_rule, features.client_id, features.service_tier)
    if decision.home:
        _choose_home(snapshot, policy, decision)
        return decision
    waiting_pool = ""
    for name in (first, *policy.fallback.get(first, ())):
        view = snapshot.pools.get(name)
        if view is None:
            continue
        if name != first and not policy.pools[name].serves(features.model):
            refuse_all(view, snapshot, decision)
            continue
        pool_policy = _policy_name(name, policy, decision.rule)
        kept_sorted = Sorted.of(view, snapshot, policy) if view.standing is not None else None
        considered = kept_sorted or Listed(view, snapshot, policy)
        at_limit = considered.reject(decision)
        if considered.count:
            decision.pool, decision.policy = name, pool_policy
            _choose(considered, view, features, snapshot, policy, decision, is_fallback=name != first)
            return decision
        if at_limit:
            waiting_pool = name
            break
    decision.pool = waiting_pool or first
    decision.policy = _policy_name(decision.pool, policy, decision.rule)
    decision.unroutable = Unroutable.ALL_AT_LIMIT if waiting_pool else Unroutable.NONE_READY
    return decision


def search_texts(features: Features, policy: Policy) -> None:
    """Evaluate the conditions on texts that `decide` needs; ``features`` keeps their results.

    May run in a thread: it reads the request and the policy only.
    """
    _pool_for(features, policy, Decision())


def _pool_for(features: Features, policy: Policy, decision: Decision) -> str | None:
    pools = policy.pools
    model = features.model

    def serving(name: str) -> bool:
        return pools[name].serves(model)

    if policy.access is not None and not policy.may_use(features.client_id, model):
        if policy.access.hide_forbidden or any(map(serving, pools)):
            decision.unroutable, decision.reason = Unroutable.MODEL_NOT_ALLOWED, Reason.MODEL_NOT_ALLOWED
        return None
    for rule in policy.rules:
        if rule.matches(features):
            if rule.refusal is not None:
                decision.rule = rule
                decision.unroutable, decision.reason = Unroutable.REFUSED_BY_RULE, Reason.REFUSED_BY_RULE
                return None
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


def _home(pool: str, features: Features, policy: Policy, decision: Decision) -> str:
    """Return ``pool``, which has the response that the request continues, or "" if it no longer serves the model."""
    if pool not in policy.pools or not policy.pools[pool].serves(features.model):
        return ""
    decision.home = pool
    return pool


def _choose_home(snapshot: Snapshot, policy: Policy, decision: Decision) -> None:
    """Choose the one backend that has the response which the request continues: any other would answer 404.

    An open breaker does not hold it back, as it does not hold back the only backend of a pool.
    """
    decision.policy = _policy_name(decision.home, policy, decision.rule)
    decision.pin, decision.affinity = snapshot.pin, AffinityState.BROKEN
    view = snapshot.pools.get(decision.home)
    place = _place_of(snapshot.pin, view)
    if view is None or place < 0:
        decision.unroutable = Unroutable.HOME_GONE
        return
    decision.round_robin[view.name] = view.round_robin
    backend = view.backends[place]
    because = backend.unusable
    if because is None and backend.name in snapshot.tried:
        because = RejectedBecause.ALREADY_TRIED
    elif because is None and backend.in_flight >= slots_of(backend):
        because = RejectedBecause.AT_LIMIT
    if because is not None:
        full = because is RejectedBecause.AT_LIMIT
        decision.unroutable = Unroutable.HOME_AT_LIMIT if full else Unroutable.HOME_NOT_READY
        decision.rejected.append((read(backend), because))
        return
    decision.affinity = AffinityState.KEPT
    decision.reason = _ATTEMPT_REASON.get(snapshot.attempt, Reason.SESSION_AFFINITY)
    decision.chosen, decision.place = backend, place
    decision.eligible, decision.scores = [read(backend)], [0.0]


def _place_of(name: str, view: PoolView | None) -> int:
    """Return the place of a backend in its pool, -1 if it is not there."""
    backends = view.backends if view is not None else []
    return next((place for place, backend in enumerate(backends) if backend.name == name), -1)


def _choose(
    considered: Considered,
    view: PoolView,
    features: Features,
    snapshot: Snapshot,
    policy: Policy,
    decision: Decision,
    *,
    is_fallback: bool,
) -> None:
    choose, reason = POLICIES[decision.policy]
    pinned: BackendView | None = None
    if features.session and policy.affinity:
        decision.affinity = AffinityState.PLACED
        reason = Reason.SESSION_AFFINITY
        choose = session_scores
        pin = snapshot.pin if snapshot.find_pin is None else snapshot.find_pin(view.name)
        if pin:
            decision.pin = pin
            pinned = considered.find(pin)
            decision.affinity = AffinityState.KEPT if pinned is not None else AffinityState.BROKEN
            reason = Reason.SESSION_AFFINITY if pinned is not None else Reason.AFFINITY_BROKEN
    elif considered.count == 1:
        reason = Reason.ONLY_CANDIDATE
    considered.choose(choose, features, pinned, decision)
    if snapshot.attempt != "first":
        reason = _ATTEMPT_REASON[snapshot.attempt]
    elif is_fallback:
        reason = Reason.FALLBACK
    decision.reason = reason


def _policy_name(pool: str, policy: Policy, rule: Rule | None) -> str:
    return (rule.policy if rule is not None else None) or policy.pools[pool].policy
