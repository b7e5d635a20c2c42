"""Policies that choose a backend in a pool. To add one, write one file here and add one line below.

A policy receives only eligible backends and scores them: the lowest score wins.
"""

from collections.abc import Callable, Collection, Sequence

from router_service.routing.features import Features
from router_service.routing.policies import bounded_rendezvous, least_loaded, round_robin
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.standing import Standing
from router_service.routing.vocabulary import Reason

Scores = list[float]
Choose = Callable[[Sequence[BackendView], Sequence[int], PoolView, Features], Scores]
Best = Callable[[Standing, PoolView, Features, Collection[int], int], list[tuple[int, float]]]

POLICIES: dict[str, tuple[Choose, Reason]] = {
    "round_robin": (round_robin.scores, Reason.ROUND_ROBIN),
    "least_loaded": (least_loaded.scores, Reason.LEAST_LOADED),
    "prefix_affinity": (bounded_rendezvous.prefix_scores, Reason.PREFIX_AFFINITY),
}
"""Every policy by its name in the configuration, with the reason that it records."""

session_scores = bounded_rendezvous.session_scores

BEST: dict[Choose, Best] = {
    round_robin.scores: round_robin.best,
    least_loaded.scores: least_loaded.best,
    bounded_rendezvous.prefix_scores: bounded_rendezvous.prefix_best,
    bounded_rendezvous.session_scores: bounded_rendezvous.session_best,
}
"""The same order for a pool that is kept sorted. A policy without an entry reads every backend."""
