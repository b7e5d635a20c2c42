"""A prompt's prefix cache is expected at a backend that served the prompt within the lifetime."""

from router_service.accounting import cache_homes
from router_service.accounting.cache_homes import CacheHomes


def test_a_prefix_is_new_then_kept_and_moved_at_a_backend_that_never_served_it() -> None:
    homes = CacheHomes(60.0)
    assert homes.served("p", "a", 0.0) == "new"
    assert homes.served("p", "a", 1.0) == "kept"
    assert homes.served("p", "b", 2.0) == "moved"
    assert homes.served("p", "b", 3.0) == "kept"
    assert homes.served("p", "a", 4.0) == "kept", "the first backend still has it"
    assert homes.served("other", "a", 5.0) == "new"


def test_a_prefix_is_new_again_after_its_lifetime() -> None:
    homes = CacheHomes(60.0)
    homes.served("p", "a", 0.0)
    assert homes.served("p", "b", 61.0) == "new"


def test_memory_is_bounded_in_prefixes_and_in_backends_of_one_prefix(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(cache_homes, "MOST_PREFIXES", 3)
    homes = CacheHomes(1e9)
    for number in range(10):
        homes.served(f"p{number}", "a", float(number))
        homes.served("same", f"b{number}", float(number))
    assert len(homes._homes) == 3
    assert len(homes._homes["same"]) == cache_homes.MOST_HOMES
