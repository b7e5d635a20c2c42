"""The routing policy in use: rules, pools, models and fallbacks, compiled from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router_service.routing.features import Needs
from router_service.routing.policies import POLICIES
from router_service.routing.rules import Rule, Timeouts

ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class Pool:
    """A set of interchangeable backends, the models it answers to and how it is balanced.

    ``aliases`` maps further names to one of ``models``; the engine serves both names.
    """

    name: str
    policy: str
    models: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    served: frozenset[str] = field(init=False, compare=False)
    serves_any: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "served", frozenset((*self.models, *self.aliases)))
        object.__setattr__(self, "serves_any", ANY_MODEL in self.models)

    def serves(self, model: str) -> bool:
        """Whether this pool answers to ``model``."""
        return model in self.served or self.serves_any


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything about routing that is configured. ``hash`` names this version in every record,
    ``named`` are the models and aliases that it spells out."""

    pools: Mapping[str, Pool]
    rules: tuple[Rule, ...]
    default_pool: str
    fallback: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    affinity: bool = True
    max_ejected_ratio: float = 0.5
    hash: str = ""
    needs: Needs = field(init=False, compare=False)
    named: frozenset[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        conditions = [c for rule in self.rules for c in rule.when.conditions()]
        policies = {pool.policy for pool in self.pools.values()} | {rule.policy for rule in self.rules}
        needs = Needs(
            user_text=any(c.kind.needs_user_text for c in conditions), prefix="prefix_affinity" in policies
        )
        object.__setattr__(self, "needs", needs)
        object.__setattr__(self, "named", frozenset(self.models()))
        assert policies - {None} <= set(POLICIES), policies

    def models(self) -> tuple[str, ...]:
        """Every model name and alias that is configured, in file order, without doubles."""
        names: dict[str, None] = {}
        for pool in self.pools.values():
            for name in (*pool.models, *pool.aliases):
                if name != ANY_MODEL:
                    names.setdefault(name)
        return tuple(names)
