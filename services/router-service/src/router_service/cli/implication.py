"""Whether one tree of conditions implies another. Must not know pools or the names of rules.

A false "no" is allowed, a false "yes" is not: users ignore a linter with wrong findings.
"""

from router_service.routing.conditions import Condition
from router_service.routing.conditions.request import is_glob, name_matcher
from router_service.routing.rules import Group

Node = Condition | Group


def implies(strong: Node, weak: Node) -> bool:
    """Return True only if every request that meets ``strong`` also meets ``weak``."""
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
        # weak: none of its members may hold. True if each member implies one that strong excludes.
        return (
            isinstance(strong, Group)
            and strong.join == "not"
            and all(any(implies(w, s) for s in strong.members) for w in weak.members)
        )
    return isinstance(strong, Condition) and _condition_implies(strong, weak)


def contradictory(group: Group) -> bool:
    """Return True if no request can meet ``group``: an empty range of numbers, or a flag required both true and
    false.
    """
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


def required(group: Group, kind: str) -> list[Condition]:
    """Return the conditions of a kind that every matching request meets."""
    if group.join != "all":
        return []
    found = []
    for member in group.members:
        if isinstance(member, Group):
            found += required(member, kind)
        elif member.kind.name == kind:
            found.append(member)
    return found


def texts(condition: Condition) -> set[str]:
    """Return the value of a condition as a set of texts."""
    value = condition.value
    return {value} if isinstance(value, str) else set(value)


def phrase_within(inner: str, outer: str) -> bool:
    """Return whether every text with the keyword ``outer`` contains ``inner``: the words of ``inner`` are adjacent in
    it.
    """
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
