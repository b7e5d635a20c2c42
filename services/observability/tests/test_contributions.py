"""The parts add up to the change, mix and slowdown are separate, and the largest cause comes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from observability.why_ttft.contributions import (
    Contribution,
    Window,
    composition,
    composition_text,
    contributions,
    parts_by_backend,
)


def window(**cells: tuple[float, dict[str, float]]) -> Window:
    """cells: "bucket__rule__affinity__backend" -> (requests, mean seconds per component), counted as routers do."""
    made = Window()
    for name, (count, means) in cells.items():
        *kind, backend = name.split("__")
        cell = tuple(kind)
        made.counts[cell] = made.counts.get(cell, 0) + count
        parts = made.seconds.setdefault(cell, {})
        for component, mean in means.items():
            parts[component] = parts.get(component, 0.0) + mean * count
        known, seconds = made.backends.get(backend, (0, 0.0))
        made.backends[backend] = (known + count, seconds + sum(means.values()) * count)
    return made


FAST = {"prefill": 0.1, "engine_queue": 0.01}


def by_name(found: list[Contribution]) -> dict[str, float]:
    return {f"{c.kind} {c.name}": round(c.seconds, 6) for c in found if abs(c.seconds) > 1e-9}


def test_a_slower_part_is_named_with_its_backend_and_nothing_else() -> None:
    before = window(short__default__off__a=(100, FAST), short__default__off__b=(100, FAST))
    after = window(
        short__default__off__a=(100, {**FAST, "engine_queue": 0.61}), short__default__off__b=(100, FAST)
    )
    found = contributions(before, after)
    assert by_name(found) == {"slower engine_queue": 0.3}
    assert found[0].backend == "a"


def test_longer_prompts_are_mix_and_not_slowdown() -> None:
    before = window(short__r__off__a=(90, {"prefill": 0.1}), long__r__off__a=(10, {"prefill": 1.1}))
    after = window(short__r__off__a=(50, {"prefill": 0.1}), long__r__off__a=(50, {"prefill": 1.1}))
    assert by_name(contributions(before, after)) == {"mix prompt_bucket": 0.4}


def test_longer_prompts_of_one_backend_are_no_shift_between_backends() -> None:
    before = window(short__r__off__a=(90, {"prefill": 0.1}), long__r__off__b=(10, {"prefill": 1.1}))
    after = window(short__r__off__a=(50, {"prefill": 0.1}), long__r__off__b=(50, {"prefill": 1.1}))
    assert by_name(contributions(before, after)) == {"mix prompt_bucket": 0.4}


def test_two_slower_backends_share_each_part_by_their_own_slowdown() -> None:
    before = window(s__r__off__a=(100, FAST), s__r__off__b=(100, FAST), s__r__off__c=(200, FAST))
    after = window(
        s__r__off__a=(100, {**FAST, "engine_queue": 0.31}),
        s__r__off__b=(100, {**FAST, "engine_queue": 0.91}),
        s__r__off__c=(200, FAST),
    )
    parts = {p.backend: p.seconds for p in parts_by_backend(before, after) if p.name == "engine_queue"}
    assert parts == {"a": pytest.approx(0.075), "b": pytest.approx(0.225)}


def test_another_rule_and_another_backend_are_told_apart() -> None:
    before = window(s__r1__off__a=(100, {"prefill": 0.1}))
    after = window(s__r1__off__a=(50, {"prefill": 0.1}), s__r2__off__b=(50, {"prefill": 0.5}))
    assert by_name(contributions(before, after)) == {"mix rule": 0.2}
    moved = window(s__r1__off__a=(50, {"prefill": 0.1}), s__r1__off__b=(50, {"prefill": 0.5}))
    assert by_name(contributions(before, moved)) == {"mix backend": 0.2}


def test_time_lost_in_failed_attempts_is_no_mix_although_another_backend_answers() -> None:
    before = window(s__r__off__a=(50, FAST), s__r__off__b=(50, FAST))
    after = window(s__r__off__a=(100, {**FAST, "earlier_attempts": 0.8}))
    assert by_name(contributions(before, after)) == {"slower earlier_attempts": 0.8}


def test_without_a_baseline_the_parts_of_the_mean_are_told_and_add_up() -> None:
    alone = window(short__r__off__a=(30, FAST), long__r__off__b=(10, {"prefill": 0.5, "engine_queue": 0.05}))
    assert composition(alone) == [("prefill", pytest.approx(0.2)), ("engine_queue", pytest.approx(0.02))]
    assert sum(seconds for _, seconds in composition(alone)) == pytest.approx(alone.mean_seconds)
    first, *rows = composition_text("mean", alone).splitlines()
    assert first == "mean 220 ms over 40 first tokens; the baseline has none to compare with"
    assert [row.split()[0] for row in rows] == ["200.0", "20.0"]
    with pytest.raises(ValueError, match="no first token"):
        composition(Window())


def test_an_empty_window_is_no_answer() -> None:
    with pytest.raises(ValueError, match="no first token"):
        contributions(Window(), window(s__r__off__a=(1, FAST)))


CELLS = st.dictionaries(
    st.tuples(*map(st.sampled_from, ("sl", "rq", "kp", "ab"))),
    st.tuples(
        st.integers(1, 1000),
        st.dictionaries(st.sampled_from(["edge", "prefill", "unexplained"]), st.floats(-0.1, 10), min_size=1),
    ),
    min_size=1,
)


@given(CELLS, CELLS)
def test_the_parts_always_add_up_to_the_change(
    one: dict[tuple[str, ...], tuple[int, dict[str, float]]],
    two: dict[tuple[str, ...], tuple[int, dict[str, float]]],
) -> None:
    before = window(**{"__".join(cell): value for cell, value in one.items()})
    after = window(**{"__".join(cell): value for cell, value in two.items()})
    found = contributions(before, after)
    assert before.mean_seconds is not None
    assert after.mean_seconds is not None
    assert sum(c.seconds for c in found) == pytest.approx(after.mean_seconds - before.mean_seconds, abs=1e-9)
    order = [abs(c.seconds) for c in found]
    assert order == sorted(order, reverse=True)
