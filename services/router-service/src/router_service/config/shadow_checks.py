"""Checks the shadows of rules: their pools exist, and no copy is compared with a copy. Works on unchecked data."""

from platform_contracts.yaml_document import Document, Place
from router_service.config.unchecked import at, mapping, must_be_pool, pools_of


def check_shadows(main: Document, rules: Document) -> None:
    """Report shadows in unknown pools, in a pool of the same rule, and of requests to a shadow's pool."""
    pools = mapping(at(main.data, "pools"))
    found = at(rules.data, "rules")
    listed = found if isinstance(found, list) else []
    first: dict[str, str] = {}
    for rule in listed:
        shadow = at(rule, "shadow", "pool")
        if isinstance(shadow, str):
            first.setdefault(shadow, str(at(rule, "name")))
    for index, rule in enumerate(listed):
        shadow = at(rule, "shadow", "pool")
        if not isinstance(shadow, str):
            continue
        place: Place = ("rules", index, "shadow", "pool")
        must_be_pool(rules, place, pools)
        own = set(pools_of(rule))
        if shadow in own:
            rules.problem(
                place, f'"{shadow}" is a pool of this rule itself; name another pool, or remove the shadow'
            )
        for pool in sorted(own & first.keys() - {shadow}):
            rules.problem(
                ("rules", index, "shadow"),
                f'a shadow of a shadow: rule {first[pool]} sends copies to "{pool}", which this rule routes to; '
                "remove one of the two shadows, or give the copies a pool of their own",
            )
