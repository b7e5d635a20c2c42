"""The routing policy: rules, pools, models and fallbacks, compiled from the configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from router_service.routing.access import ModelAccess
from router_service.routing.classes import Classes
from router_service.routing.features import Needs
from router_service.routing.policies import POLICIES
from router_service.routing.privacy import Privacy
from router_service.routing.rules import Rule, Timeouts

ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class Pool:
    """A set of interchangeable backends, the models it serves and its load-balancing policy.

    ``aliases`` maps additional names to one of ``models``. ``rewrites`` has the aliases that the engine does not
    know: the router replaces them by the model's own name in the request.
    """

    name: str
    policy: str
    models: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    rewrites: Mapping[str, str] = field(default_factory=dict)
    served: frozenset[str] = field(init=False, compare=False)
    serves_any: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "served", frozenset((*self.models, *self.aliases)))
        object.__setattr__(self, "serves_any", ANY_MODEL in self.models)

    def serves(self, model: str) -> bool:
        """Return whether this pool serves ``model``."""
        return model in self.served or self.serves_any


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole routing configuration. ``hash`` identifies this version in every record; ``named`` are its models and
    aliases. ``access`` None: every client may use every model. ``classes`` None: requests have no class.
    """

    pools: Mapping[str, Pool]
    rules: tuple[Rule, ...]
    default_pool: str
    fallback: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    affinity: bool = True
    max_ejected_ratio: float = 0.5
    privacy: Privacy = field(default_factory=Privacy)
    access: ModelAccess | None = None
    classes: Classes | None = None
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

    def may_use(self, client_id: str, model: str) -> bool:
        """Return whether the client may use the model, by its name or an alias."""
        if self.access is None:
            return True
        meant = {pool.aliases[model] for pool in self.pools.values() if model in pool.aliases}
        return self.access.allows(client_id, model, meant)

    def models(self) -> tuple[str, ...]:
        """Return every configured model name and alias once, in file order."""
        names: dict[str, None] = {}
        for pool in self.pools.values():
            for name in (*pool.models, *pool.aliases):
                if name != ANY_MODEL:
                    names.setdefault(name)
        return tuple(names)
