"""The report of `make bench SCALE=1`: every target with its value, and every round of a figure."""

from load_testing.bench.scale_report import table, targets
from load_testing.bench.systems import OURS, peers

ROUNDS = {"cpu_us_per_request": [120.0, 130.0, 125.0], "memory_mb": [90.0, 91.0, 92.0]}
FLEET = {
    "idle_cpu_percent": [5.0, 6.0, 7.0],
    "loop_lag_p99_ms": [1.0, 10.0, 2.5],
    "cpu_us_per_request": [170.0, 160.0, 150.0],
    "series": [4400.0] * 3,
    "scrape_ms": [15.0, 16.0, 55.0],
    "scrape_held_ms": [2.0, 5.5, 2.1],
    "memory_mb": [141.0, 117.0, 118.0],
}
RESULTS = {
    2: {OURS: ROUNDS, "vllm-router": {"cpu_us_per_request": [50.0] * 3}},
    1000: {OURS: FLEET, "vllm-router": {"cpu_us_per_request": [200.0] * 3}},
}
DECISIONS = {64: 24.0, 1000: 61.0}


def test_a_target_is_judged_by_the_median_but_the_held_loop_by_its_worst_round() -> None:
    found = {what: (value, met) for what, value, _, met in targets(RESULTS, DECISIONS)}
    assert found == {
        "decision, 100 rules, 64 backends, CPU µs": (24.0, True),
        "decision, 100 rules, 1,000 backends, CPU µs": (61.0, False),
        "idle CPU, % of a core": (6.0, True),
        "loop lag p99, idle, ms": (2.5, True),
        "CPU/request, of that with 2 backends": (160 / 125, False),
        "CPU/request, of vllm-router with as many": (0.8, True),
        "series": (4400.0, True),
        "scrape, ms": (16.0, True),
        "longest time that a scrape held the loop, ms": (5.5, False),
        "memory, MB": (118.0, True),
    }


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert {met for _, _, _, met in targets({2: {OURS: ROUNDS}}, {})} == {None}


def test_the_table_has_every_system_with_every_round() -> None:
    text = table(RESULTS, DECISIONS)
    assert "125 (120–130)" in text
    assert "2.1 (2–5.5)" in text
    heads = [line.split()[0] for line in text.splitlines() if line.endswith("1,000 backends")]
    assert heads == [OURS, "vllm-router"]
    assert text.count("MISSED") == 3


def test_peers_listen_in_front_of_every_backend() -> None:
    urls = [f"http://127.0.1.{n}:9000" for n in range(1, 4)]
    for peer in peers(8000, 8001, urls):
        at = peer.command.index("--worker-urls")
        assert list(peer.command[at + 1 : at + 4]) == urls
        assert peer.command[at + 4 : at + 8] == ("--host", "127.0.0.1", "--port", "8000")
