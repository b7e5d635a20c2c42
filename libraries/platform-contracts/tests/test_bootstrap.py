"""The interval of a difference holds the truth, follows its requests, and is the same for the same input."""

from random import Random

from platform_contracts.bootstrap import Difference, Mean, Quantiles, Ratio, Sample, differences


def group(random: Random, size: int, mean: float, error_share: float = 0.0, values_each: int = 1) -> Sample:
    """Return requests whose values spread a little around a mean of their own."""
    own = [random.gauss(mean, 0.1) for _ in range(size)]
    values = [random.gauss(of, 0.001) for of in own for _ in range(values_each)]
    owners = [index for index in range(size) for _ in range(values_each)]
    failed = [random.random() < error_share for _ in range(size)]
    return Sample(
        size,
        [
            Quantiles({"p50": 0.5, "p95": 0.95}, values, owners),
            Mean("mean", values, owners),
            Ratio("errors", failed, [True] * size),
        ],
    )


def by_name(found: list[Difference]) -> dict[str, Difference]:
    return {one.name: one for one in found}


def test_a_difference_is_told_from_noise() -> None:
    random = Random(1)
    a, b = group(random, 300, 1.0, 0.01), group(random, 300, 1.2, 0.2)
    found = by_name(differences(a, b))
    for name in ("p50", "mean"):
        assert found[name].real
        assert found[name].low < 0.2 < found[name].high
    assert found["errors"].real
    assert 0.1 < found["errors"].b < 0.3
    same = by_name(differences(group(random, 300, 1.0), group(random, 300, 1.0)))
    assert not same["p50"].real


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    random = Random(7)
    held = 0
    for seed in range(60):
        found = by_name(differences(group(random, 80, 1.0), group(random, 80, 1.05), seed, resamples=200))
        held += found["p50"].low <= 0.05 <= found["p50"].high
    assert held >= 52, held  # 95 % of 60 are 57


def test_many_values_of_a_request_do_not_narrow_the_interval() -> None:
    one = by_name(differences(group(Random(2), 60, 1.0), group(Random(3), 60, 1.0)))["p50"]
    many = by_name(
        differences(group(Random(2), 60, 1.0, values_each=50), group(Random(3), 60, 1.0, values_each=50))
    )["p50"]
    assert many.high - many.low > (one.high - one.low) / 2


def test_the_same_input_has_the_same_result() -> None:
    a, b = group(Random(4), 50, 1.0), group(Random(5), 50, 1.0)
    assert differences(a, b, 9) == differences(a, b, 9)
    assert differences(a, b, 9) != differences(a, b, 10)


def test_what_one_group_lacks_is_left_out() -> None:
    def without_values(size: int) -> Sample:
        return Sample(
            size,
            [
                Quantiles({"p50": 0.5, "p95": 0.95}, [], []),
                Mean("mean", [], []),
                Ratio("errors", [False] * size, [True] * size),
            ],
        )

    a = group(Random(6), 20, 1.0)
    assert [one.name for one in differences(a, without_values(20))] == ["errors"]
    assert differences(a, without_values(0)) == []
