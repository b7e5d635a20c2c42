"""Decides whether a request is copied to its rule's shadow pool, and to which backend. Reads no live state itself.

A copy is not routed by rules, so a copy is never copied again. Sessions, pins and fallbacks do not apply to it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from router_service.routing.decide import decide
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.policy import Policy
from router_service.routing.rules import Shadow
from router_service.routing.snapshot import PoolView, Snapshot
from router_service.routing.vocabulary import NotCopied

ID_SUFFIX = "-shadow"
"""Follows the request id in the id of its copy."""


def shadow_of(decision: Decision, request_id: str) -> Shadow | None:
    """Return the shadow that takes this request, None without one. A refused request has none."""
    rule = decision.rule
    if rule is None or rule.shadow is None or decision.chosen is None:
        return None
    return rule.shadow if rule.shadow.takes(rule.name, request_id) else None


def not_copied(
    shadow: Shadow, decision: Decision, model: str, policy: Policy, *, stateful: bool
) -> NotCopied | None:
    """Return why the request itself rules a copy out, None if it does not."""
    if stateful or decision.home:
        return NotCopied.STATEFUL
    if not policy.pools[shadow.pool].serves(model):
        return NotCopied.MODEL_NOT_SERVED
    if decision.pool == shadow.pool:
        return NotCopied.SAME_POOL
    return None


def noted(pool: str, request_id: str, because: NotCopied | None) -> dict[str, Any]:
    """Return the entry about its copy in the record of a request."""
    if because is not None:
        return {"pool": pool, "left_out": because}
    return {"pool": pool, "request_id": request_id + ID_SUFFIX}


def shadow_policy(policy: Policy, pool: str) -> Policy:
    """Return the policy by which copies are placed: the one pool, without rules, sessions or fallbacks."""
    return replace(policy, pools={pool: policy.pools[pool]}, rules=(), default_pool=pool, fallback={}, affinity=False,
                   access=None, classes=None)  # fmt: skip


def shadow_view(view: PoolView, copies: Mapping[str, int], turn: int) -> PoolView:
    """Return the pool with the running ``copies`` counted at their backends; ``turn`` is the round-robin position.

    A large pool is returned as it is, because it is kept sorted: its copies are not weighed.
    """
    if view.standing is not None:
        return view
    backends = [replace(b, in_flight=b.in_flight + copies.get(b.name, 0)) for b in view.backends]
    return PoolView(view.name, backends, turn)


def decide_copy(features: Features, view: PoolView, policy: Policy, now: float) -> Decision:
    """Choose the backend of a copy by a :func:`shadow_policy`."""
    return decide(features, Snapshot({view.name: view}), policy, now)
