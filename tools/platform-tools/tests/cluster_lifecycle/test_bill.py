"""Planned costs add up, and an unpriced resource is never counted as free."""

from pathlib import Path

from platform_tools.cluster_lifecycle.bill import Item, Price, hourly, read_prices, table
from platform_tools.cluster_lifecycle.planned import planned

INFRASTRUCTURE = Path(__file__).resolve().parents[4] / "infrastructure"
PRICES = {"a": Price(2.0, "somewhere", "2026-01-02", True), "b": Price(None, "page", "", False)}


def test_what_has_no_price_is_named_and_not_free() -> None:
    items = [Item("one", "a", 3), Item("two", "b", 1), Item("three", "c", 1)]
    assert hourly(items, PRICES) == (6.0, ["b", "c"])
    text = table(items, PRICES)
    assert "at least 6.000 USD an hour, 4,380 USD in a month" in text
    assert "not in the sum: b, c" in text


def test_every_price_names_its_source_and_an_unverified_one_is_shown_as_such() -> None:
    prices = read_prices(INFRASTRUCTURE / "prices.yaml")
    assert all(price.source.startswith("https://") for price in prices.values())
    text = table([Item("x", name, 1) for name in prices], prices)
    assert text.count("NOT VERIFIED") == sum(p.usd is not None and not p.verified for p in prices.values())


def test_planned_items_follow_the_variables_and_all_have_an_entry_in_the_price_file() -> None:
    prices = read_prices(INFRASTRUCTURE / "prices.yaml")
    found = {
        env: {item.price: item.count for item in planned(INFRASTRUCTURE, env)} for env in ("dev", "prod")
    }
    assert found["dev"]["g6.xlarge"] == 2
    assert (found["dev"]["nat-gateway"], found["prod"]["nat-gateway"]) == (1, 3)
    assert found["prod"]["interface-endpoint"] == 3 * found["dev"]["interface-endpoint"]
    assert {price for items in found.values() for price in items} <= prices.keys()


def test_the_documents_costs_are_those_of_the_files() -> None:
    document = (INFRASTRUCTURE.parent / "docs" / "infrastructure.md").read_text()
    prices = read_prices(INFRASTRUCTURE / "prices.yaml")
    for environment in ("dev", "prod"):
        usd, unknown = hourly(planned(INFRASTRUCTURE, environment), prices)
        least = "at least " if unknown else ""
        assert f"| {environment} | {least}{usd:.3f} |" in document
