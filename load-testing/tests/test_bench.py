"""The router's benchmark: reasons for an invalid run, the table, the measured configuration."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from load_testing.bench.collector import collecting
from load_testing.bench.interpreter import description, flags_tell, interleaved, sentence
from load_testing.bench.report import ROWS, rounds, table, targets, with_spread
from load_testing.bench.run import IDLE_SECONDS, TRACE_RATIO, WARM_ANSWERS, Plan, off_pace, untraced
from load_testing.bench.session_store import keys, running_redis
from load_testing.bench.systems import OURS, OURS_WITH_REDIS, Services, rules, systems
from router_service.affinity.sessions import CACHE_SECONDS
from router_service.config.load import load


def span(kind: int) -> dict[str, Any]:
    return {"traceId": "1" * 32, "spanId": "2" * 16, "name": "a request", "kind": kind}


def post(url: str, body: object) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with opener.open(request, timeout=5) as answer:
        return int(answer.status)


def report(**figures: dict[str, list[float]]) -> dict[str, Any]:
    """Return a report of three rounds; `_` in names means `-`."""
    found = {name.replace("_", "-"): measures for name, measures in figures.items()}
    middle = {
        name: {what: sorted(v)[len(v) // 2] for what, v in measures.items()}
        for name, measures in found.items()
    }
    return {
        "rounds": 3,
        "interpreter": {**description(), "version": "3.11.9"},
        "commands": {OURS: "router-service serve"},
        "medians": middle,
        "all": found,
    }


def test_the_collector_counts_one_for_each_traced_request() -> None:
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span(2), span(3), span(3)]}, {"spans": [span(2)]}]}]}
    with collecting() as collector:
        assert post(f"{collector.endpoint}/v1/traces", body) == 200
        assert post(f"{collector.endpoint}/v1/traces", body) == 200
        assert collector.requests == 4


@pytest.mark.parametrize(
    ("gap", "off"), [(50.0, False), (51.4, False), (54.9, False), (56.0, True), (44.0, True)]
)
def test_streams_without_a_router_must_keep_their_pace(gap: float, off: bool) -> None:
    assert off_pace(gap) is off


@pytest.mark.parametrize(("traced", "nothing"), [(0, True), (40, True), (90, False), (115, False)])
def test_a_run_whose_spans_did_not_arrive_is_invalid(traced: int, nothing: bool) -> None:
    assert untraced(traced, 10_000) is nothing


def test_the_routers_configuration_sends_spans_and_keeps_pins_where_it_says(tmp_path: Path) -> None:
    found = {
        system.name: system
        for system in systems(8000, 8001, [1, 2], Services("http://127.0.0.1:4318", 6380), tmp_path)
    }
    plain, shared = (load(Path(found[name].command[-1])).values for name in (OURS, OURS_WITH_REDIS))
    assert plain.telemetry.otlp_endpoint == shared.telemetry.otlp_endpoint == "http://127.0.0.1:4318"
    assert plain.redis is None
    assert shared.redis is not None
    assert shared.redis.url == "redis://127.0.0.1:6380/0"
    assert found[OURS].env["OTEL_TRACES_SAMPLER_ARG"] == str(TRACE_RATIO) == "0.01"
    assert rules() == (tmp_path / "rules.yaml").read_text()


def test_streams_are_not_charged_with_records_nor_idle_sessions_found_without_redis(tmp_path: Path) -> None:
    ours = systems(8000, 8001, [1, 2], Services("http://127.0.0.1:4318", None), tmp_path)[0]
    assert load(Path(ours.command[-1])).values.decisions.ring < WARM_ANSWERS
    assert CACHE_SECONDS < IDLE_SECONDS


def test_without_a_redis_there_is_no_router_with_one(tmp_path: Path) -> None:
    names = [
        system.name
        for system in systems(8000, 8001, [1, 2], Services("http://127.0.0.1:4318", None), tmp_path)
    ]
    assert OURS in names
    assert OURS_WITH_REDIS not in names


def test_a_shown_command_carries_its_environment(tmp_path: Path) -> None:
    ours = systems(8000, 8001, [1, 2], Services("http://127.0.0.1:4318", None), tmp_path)[0]
    assert ours.shown().startswith(
        "OTEL_TRACES_SAMPLER_ARG=0.01 OTEL_BSP_SCHEDULE_DELAY=500 .venv/bin/router-service"
    )


@pytest.mark.service
def test_the_redis_of_the_run_is_empty_and_ends_with_it(tmp_path: Path) -> None:
    with running_redis(tmp_path) as port:
        assert keys(port) == 0
    assert keys(port) == 0


def test_a_median_is_shown_with_its_least_and_greatest_round() -> None:
    assert with_spread(163.7, [156.6, 163.7, 264.7]) == "164 (157–265)"
    assert with_spread(17276.0, [17276.0]) == "17,276"
    assert with_spread(999.7, [999.7]) == "1,000"
    assert with_spread(None, []) == "-"


def test_sessions_are_compared_with_the_plain_request_of_the_same_router() -> None:
    medians = {
        OURS: {"cpu_us_per_request_c32_1kb": 100.0, "cpu_us_per_request_c32_1kb_sessions": 110.0},
        OURS_WITH_REDIS: {"cpu_us_per_request_c32_1kb": 104.0, "cpu_us_per_request_c32_1kb_sessions": 143.0},
    }
    [(_, value, limit, met)] = [row for row in targets(medians) if "sessions in Redis" in row[0]]
    assert value == pytest.approx(1.375)
    assert limit == "≤ 1.2"
    assert met is False


def test_the_table_names_the_interpreter_and_every_round_of_a_ratio() -> None:
    cpu = "cpu_us_per_request_c32_1kb"
    found = report(router_service={cpu: [160.0, 150.0, 240.0]}, vllm_router={cpu: [80.0, 75.0, 80.0]})
    assert [figures[OURS][cpu] for figures in rounds(found)] == [160.0, 150.0, 240.0]
    text = table(found)
    assert "3.11.9" in text
    assert "160 (150–240)" in text
    assert "2 (2–3)" in next(line for line in text.splitlines() if "of vllm-router" in line)
    assert all(title in text for title, _ in ROWS)


def test_memory_of_streams_is_read_at_the_most_streams() -> None:
    assert max(Plan(quick=True, rounds=1).streams) == 1000
    assert "kb_per_stream_1000" in {what for _, what in ROWS}


def test_functions_of_two_files_among_each_other_were_placed_by_a_profile() -> None:
    assert interleaved([0x10, 0x900], [0x20, 0x800])
    assert not interleaved([0x10, 0x90], [0x100, 0x180])
    assert not interleaved([0x100, 0x180], [0x10, 0x90])


def test_build_flags_tell_of_the_optimization() -> None:
    assert flags_tell({"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'"})
    assert flags_tell({"PY_CFLAGS_NODIST": "-std=c11 -fprofile-use -fprofile-correction"})
    assert not flags_tell({"CONFIG_ARGS": "'--enable-shared'", "PY_CORE_CFLAGS": None})


def test_this_interpreter_is_described() -> None:
    found = description()
    assert found["profile_guided"] in (True, False)
    assert f"{found['implementation']} {found['version']}" in sentence(found)
