"""How a backend is chosen inside a pool. A new policy is one file here and one line below.

A policy gets only backends that may take the request and orders them: the lowest score wins.
"""

from collections.abc import Callable, Sequence

from router_service.routing.features import Features
from router_service.routing.policies import bounded_rendezvous, least_loaded, round_robin
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.vocabulary import Reason

Scores = list[float]
Choose = Callable[[Sequence[BackendView], PoolView, Features], Scores]

POLICIES: dict[str, tuple[Choose, Reason]] = {
    "round_robin": (round_robin.scores, Reason.ROUND_ROBIN),
    "least_loaded": (least_loaded.scores, Reason.LEAST_LOADED),
    "prefix_affinity": (bounded_rendezvous.prefix_scores, Reason.PREFIX_AFFINITY),
}
"""Every policy by its name in the configuration, with the reason it gives."""

session_scores = bounded_rendezvous.session_scores
