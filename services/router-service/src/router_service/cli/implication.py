"""Whether one tree of conditions surely holds whenever another does; knows no pool and no rule's name.

The answer may be no where it is yes: a linter that cries wolf is switched off.
"""

from router_service.routing.conditions import Condition
from router_service.routing.conditions.request import name_matcher
from router_service.routing.rules import Group

Node = Condition | Group


def implies(strong: Node, weak: Node) -> bool:
    """Whether every request that meets ``strong`` surely meets ``weak``."""
    if strong == weak:
        return True
    if isinstance(weak, Group) and weak.join == "all":
        return all(implies(strong, member) for member in weak.members)
    if isinstance(strong, Group):
        if strong.join == "any":
            return bool(strong.members) and all(implies(member, weak) for member in strong.members)
        if strong.join == "all" and any(implies(member, weak) for member in strong.members):
            return True
    if isinstance(weak, Group):
        if weak.join == "any":
            return any(implies(strong, member) for member in weak.members)
        # weak: none of its members. It holds when each of them implies one that strong rules out.
        return (
            isinstance(strong, Group)
            and strong.join == "not"
            and all(any(implies(w, s) for s in strong.members) for w in weak.members)
        )
    return isinstance(strong, Condition) and _condition_implies(strong, weak)


def contradictory(group: Group) -> bool:
    """Whether nothing can meet ``group``: a number at least this and at most less, one flag both ways."""
    if group.join != "all":
        return False
    least: dict[str, int] = {}
    most: dict[str, int] = {}
    exact: dict[str, object] = {}
    for member in group.members:
        if isinstance(member, Group):
            if contradictory(member):
                return True
            continue
        name, value = member.kind.name, member.value
        if name.endswith("_gte"):
            least[name[:-4]] = max(value, least.get(name[:-4], value))
        elif name.endswith("_lte"):
            most[name[:-4]] = min(value, most.get(name[:-4], value))
        elif isinstance(value, bool) and exact.setdefault(name, value) != value:
            return True
    return any(name in most and most[name] < value for name, value in least.items())


def texts(condition: Condition) -> set[str]:
    """The value of a condition that takes one text or several."""
    value = condition.value
    return {value} if isinstance(value, str) else set(value)


def is_glob(name: str) -> bool:
    """Whether a name stands for several."""
    return any(sign in name for sign in "*?[")


def phrase_within(inner: str, outer: str) -> bool:
    """Whether a text with the keyword ``outer`` surely has ``inner``: its words stand in it, side by side."""
    a, b = inner.casefold().split(), outer.casefold().split()
    return any(b[start : start + len(a)] == a for start in range(len(b) - len(a) + 1))


def _condition_implies(strong: Condition, weak: Condition) -> bool:
    kind = strong.kind.name
    if kind != weak.kind.name:
        return False
    if kind.endswith("_gte"):
        return bool(strong.value >= weak.value)
    if kind.endswith("_lte"):
        return bool(strong.value <= weak.value)
    if kind == "any_keywords":
        return all(any(phrase_within(w, s) for w in texts(weak)) for s in texts(strong))
    if kind in ("model", "client_id"):
        return _covered(texts(strong), texts(weak))
    if kind == "path":
        return texts(strong) <= texts(weak)
    if kind == "header":
        return all(
            name in strong.value and _covered({strong.value[name]}, {wanted})
            for name, wanted in weak.value.items()
        )
    return strong.hash == weak.hash


def _covered(names: set[str], others: set[str]) -> bool:
    matches = name_matcher(sorted(others))
    return all(name in others or (not is_glob(name) and matches(name)) for name in names)
