"""Every alert fires on what it claims and stays quiet next to it; its runbook exists. Run by promtool itself."""

import re
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from observability.rules.alerts import alert_groups, alerts, objectives
from observability.rules.cluster_alerts import cluster_alerts
from observability.rules.time_scale import TimeScale
from observability.rules.verdict import WORK, recording_groups

ROOT = Path(__file__).parents[3]
ALERTS = {alert.name: alert for alert in alerts()}

Series = dict[str, str]

# 15 s between values. What is stated lasts long enough for every window and hold time.
LONG = 4 * 60 * 8  # eight hours
REQUESTS = 'router_requests_total{{pool="p",outcome="{}"}}'
FIRSTS = 'router_first_tokens_total{{pool="p",slow="{}"}}'
PER_TOKEN = "gen_ai_server_time_per_output_token_seconds"
LAG = "router_event_loop_lag_seconds"


def grows(per_step: float, steps: int = LONG) -> str:
    return f"0+{per_step}x{steps}"


def is_(value: float, steps: int = LONG) -> str:
    return f"{value}x{steps}"


def shares(bad: float, good: float, template: str, bad_word: str, good_word: str) -> Series:
    return {template.format(bad_word): grows(bad), template.format(good_word): grows(good)}


def per_token(slow: float, every: float) -> Series:
    return {f'{PER_TOKEN}_bucket{{le="0.2"}}': grows(every - slow), f"{PER_TOKEN}_count": grows(every)}


def state(name: str) -> Series:
    return {f'backend_state{{backend="a",state="{name}"}}': is_(1)}


def gauge(name: str, value: float) -> Series:
    return {name: is_(value)}


EDGE = 'router_ttft_component_seconds_{}{{pool="p",component="edge"}}'
WORKS = {
    'vllm:generation_tokens_total{backend="a"}': grows(500),
    'vllm:prompt_tokens_total{backend="a"}': grows(100),
    'vllm:prefix_cache_hits_total{backend="a"}': grows(20),
}
GAP = 'vllm:inter_token_latency_seconds_{}{{backend="a"}}'
CAPACITY = 'pool:bottleneck:verdict{{pool="p",verdict="{}"}}'

REPAIRED = 'router_backend_tcp_repaired_total{{pool="p",backend="{}"}}'
CARRIED = {'router_tcp_segments_total{pool="p"}': grows(200), 'router_usable_backends{pool="p"}': is_(2)}
"""Two backends with a hundred segments each in a step."""

# alert -> (series in which it fires, series in which it stays quiet)
CLAIMS: dict[str, tuple[Series, Series]] = {
    # 14.4 x 0.5 % = 7.2 %; cancellations and the client's own errors never count
    "AvailabilityBudgetBurningFast": (
        shares(10, 90, REQUESTS, "timeout", "ok"),
        {**shares(5, 95, REQUESTS, "timeout", "ok"), REQUESTS.format("cancelled"): grows(50)},
    ),
    "AvailabilityBudgetBurningSlowly": (
        shares(4, 96, REQUESTS, "truncated", "ok"),
        {**shares(2, 98, REQUESTS, "truncated", "ok"), REQUESTS.format("client_error"): grows(90)},
    ),
    "TtftBudgetBurningFast": (
        shares(80, 20, FIRSTS, "true", "false"),
        shares(60, 40, FIRSTS, "true", "false"),
    ),
    "TtftBudgetBurningSlowly": (
        shares(40, 60, FIRSTS, "true", "false"),
        shares(20, 80, FIRSTS, "true", "false"),
    ),
    "InterTokenBudgetBurningFast": (per_token(80, 100), per_token(60, 100)),
    "InterTokenBudgetBurningSlowly": (per_token(40, 100), per_token(20, 100)),
    "BackendStuck": (state("stuck"), state("saturated")),
    "BackendThrottled": (state("throttled"), state("working")),
    "BackendUnreachable": (state("unreachable"), state("draining")),
    "BackendStateUnknown": (state("unknown"), state("idle")),
    "PoolHasNoUsableBackend": (
        gauge('router_usable_backends{pool="p",instance="r1"}', 0),
        # one replica sees no usable backend, but another one still routes there
        {
            'router_usable_backends{pool="p",instance="r1"}': is_(0),
            'router_usable_backends{pool="p",instance="r2"}': is_(1),
        },
    ),
    "BackendBreakerOpen": (
        gauge('router_backend_rejected{backend="a",because="breaker_open"}', 1),
        gauge('router_backend_rejected{backend="a",because="stuck"}', 1),
    ),
    "TargetDown": (gauge('up{job="j"}', 0), gauge('up{job="j"}', 1)),
    "RouterConfigRefused": (
        gauge("router_config_last_reload_successful", 0),
        gauge("router_config_last_reload_successful", 1),
    ),
    "RolloutWentBack": (
        gauge('router_rollout_state{rule="r",state="went_back"}', 1),
        gauge('router_rollout_state{rule="r",state="advancing"}', 1),
    ),
    "RouterCannotListBackends": (
        gauge('router_discovery_up{pool="p"}', 0),
        gauge('router_discovery_up{pool="p"}', 1),
    ),
    # evaluated where the test's own clock begins, at 0
    "RouterClockWrong": (
        {"router_time_seconds": "3600+15x1920"},
        {"router_time_seconds": "1+15x1920"},
    ),
    "FileDescriptorsScarce": (
        {"process_open_fds": is_(95), "process_max_fds": is_(100)},
        {
            'process_open_fds{job="router-service",instance="r"}': is_(85),
            'process_max_fds{job="router-service",instance="r"}': is_(100),
            'up{job="router-service",instance="r"}': is_(1),
            'up{job="router-service",instance="gone"}': is_(0),
            'up{job="edge",instance="e"}': is_(1),
        },
    ),
    "AffinityStoreDown": (gauge("router_affinity_store_up", 0), gauge("router_affinity_store_up", 1)),
    "BudgetStoreDown": (
        gauge("rate_limit_store_up", 0),
        {
            "rate_limit_store_up": is_(1),
            "envoy_cluster_ratelimit_budget_error": is_(7),  # errors of the past
        },
    ),
    "RetryBudgetSpent": (
        gauge("router_retry_budget_remaining", 0),
        gauge("router_retry_budget_remaining", 1),
    ),
    "RouterQueueWaiting": (
        gauge('router_queue_length{pool="p"}', 3),
        {'router_queue_length{pool="p"}': " ".join(["3x11 0x1"] * 150)},  # empty once every three minutes
    ),
    "RouterEventLoopBlocked": (
        {f"{LAG}_sum": grows(0.1 * 60), f"{LAG}_count": grows(60)},
        {f"{LAG}_sum": grows(0.01 * 60), f"{LAG}_count": grows(60)},
    ),
    "EdgeRunsLate": (
        {EDGE.format("sum"): "0+0.6x1700 1140+60x220", EDGE.format("count"): grows(60)},
        # a router that runs late takes requests late: that is not the edge
        {
            EDGE.format("sum"): "0+0.6x1700 1140+60x220",
            EDGE.format("count"): grows(60),
            f"{LAG}_sum": grows(6),
            f"{LAG}_count": grows(60),
        },
    ),
    "BackendSlow": (
        {GAP.format("sum"): "0+10x1750 17550+50x170", GAP.format("count"): grows(500), **WORKS},
        # more to do makes tokens slower, and gives more of them
        {
            GAP.format("sum"): "0+10x1750 17600+100x170",
            GAP.format("count"): "0+500x1750 876000+1000x170",
            **WORKS,
            'vllm:generation_tokens_total{backend="a"}': "0+500x1750 876000+1000x170",
        },
    ),
    "BackendFarAway": (
        gauge('router_backend_round_trip_seconds{backend="a"}', 0.2),
        gauge('router_backend_round_trip_seconds{backend="a"}', 0.002),
    ),
    "BackendLosesPackets": (
        {REPAIRED.format("a"): grows(5), **CARRIED},
        # one in a hundred is borne; so is a larger share of next to nothing
        {
            REPAIRED.format("a"): grows(0.9),
            **CARRIED,
            REPAIRED.replace('"p"', '"q"').format("b"): grows(0.5 * 15 / 300),
            'router_tcp_segments_total{pool="q"}': grows(15 / 300),
            'router_usable_backends{pool="q"}': is_(1),
        },
    ),
    "BackendPreempting": (
        {'vllm:num_preemptions_total{backend="a"}': grows(2)},
        {'vllm:num_preemptions_total{backend="a"}': "0x1000 30x900"},
    ),
    "PoolAtCapacity": (
        {CAPACITY.format("capacity"): is_(1), CAPACITY.format("none"): is_(0)},
        {CAPACITY.format("capacity"): is_(0), CAPACITY.format("routing"): is_(1)},
    ),
    "RouterLogLinesDropped": (
        {"router_log_lines_dropped_total": grows(1)},
        {"router_log_lines_dropped_total": is_(7)},
    ),
}


def promtool(folder: Path, groups: list[dict[str, Any]], tests: list[dict[str, Any]]) -> None:
    rules = {"groups": groups}
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_claim_and_every_claim_an_alert() -> None:
    assert set(CLAIMS) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_it_fires_on_its_claim_and_is_quiet_beside_it(name: str, tmp_path: Path) -> None:
    group = alert_groups()[0]
    rule = next(r for r in group["rules"] if r["alert"] == name)
    # Without annotations and labels of series promtool compares only whether it fires.
    bare = {"alert": name, "expr": rule["expr"], "for": rule["for"], "labels": {"severity": "x"}}
    counted = {
        "alert": name,
        "expr": f"count({bare['expr']}) > 0",
        "for": rule["for"],
        "labels": {"severity": "x"},
    }
    tests = []
    for firing, series in zip((True, False), CLAIMS[name], strict=True):
        expected = [{"exp_labels": {"severity": "x"}}] if firing else []
        tests.append(
            {
                "interval": "15s",
                "input_series": [{"series": key, "values": value} for key, value in series.items()],
                "alert_rule_test": [{"alertname": name, "eval_time": "7h30m", "exp_alerts": expected}],
            }
        )
    recording = recording_groups() if WORK in rule["expr"] else []
    promtool(tmp_path, [*recording, {"name": "g", "rules": [counted]}], tests)


def test_clients_that_send_slowly_as_they_always_did_are_no_late_edge(tmp_path: Path) -> None:
    rule = next(r for r in alert_groups()[0]["rules"] if r["alert"] == "EdgeRunsLate")
    series = [
        {"series": EDGE.format("sum"), "values": grows(30)},
        {"series": EDGE.format("count"), "values": grows(60)},
    ]
    check = {"alertname": "EdgeRunsLate", "eval_time": "7h30m", "exp_alerts": []}
    bare = {"alert": "EdgeRunsLate", "expr": rule["expr"], "for": rule["for"]}
    tests = [{"interval": "15s", "input_series": series, "alert_rule_test": [check]}]
    promtool(tmp_path, [{"name": "g", "rules": [bare]}], tests)


@pytest.mark.parametrize(("was", "figures"), [("full", "_x240"), ("full for a moment", "10x230 _x4 10x20")])
def test_a_router_that_cannot_open_a_file_to_look_at_itself_has_too_few(
    was: str, figures: str, tmp_path: Path
) -> None:
    rule = next(r for r in alert_groups()[0]["rules"] if r["alert"] == "FileDescriptorsScarce")
    bare = {"alert": "FileDescriptorsScarce", "expr": f"count({rule['expr']}) > 0", "for": rule["for"]}
    series = [
        {"series": f'up{{job="router-service",instance="{was}"}}', "values": is_(1)},
        {"series": f'process_open_fds{{job="router-service",instance="{was}"}}', "values": figures},
        {"series": 'up{job="router-service",instance="well"}', "values": is_(1)},
        {"series": 'process_open_fds{job="router-service",instance="well"}', "values": is_(10)},
        {"series": 'process_max_fds{job="router-service",instance="well"}', "values": is_(100)},
    ]
    check = {
        "alertname": "FileDescriptorsScarce", "eval_time": "1h", "exp_alerts": [{"exp_labels": {}}],
    }  # fmt: skip
    tests = [{"interval": "15s", "input_series": series, "alert_rule_test": [check]}]
    promtool(tmp_path, [{"name": "g", "rules": [bare]}], tests)


def test_an_alert_waits_out_its_hold_time(tmp_path: Path) -> None:
    rule = next(r for r in alert_groups()[0]["rules"] if r["alert"] == "BackendUnreachable")
    bare = {"alert": "BackendUnreachable", "expr": f"count({rule['expr']}) > 0", "for": rule["for"]}
    series = [{"series": key, "values": value} for key, value in state("unreachable").items()]
    checks = [
        {"alertname": "BackendUnreachable", "eval_time": "45s", "exp_alerts": []},
        {"alertname": "BackendUnreachable", "eval_time": "75s", "exp_alerts": [{"exp_labels": {}}]},
    ]
    tests = [{"interval": "15s", "input_series": series, "alert_rule_test": checks}]
    promtool(tmp_path, [{"name": "g", "rules": [bare]}], tests)


EVERY_ALERT = [*ALERTS, *(alert.name for alert in cluster_alerts())]


@pytest.mark.parametrize("name", EVERY_ALERT)
def test_every_alert_has_a_runbook_that_says_what_to_look_at_and_what_to_do(name: str) -> None:
    text = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    for heading in ("## What it means", "## Check", "## Remedy"):
        assert heading in text


@pytest.mark.parametrize("name", EVERY_ALERT)
def test_a_runbook_names_local_and_cluster_addresses_and_its_links_lead_somewhere(name: str) -> None:
    path = ROOT / "docs" / "runbooks" / f"{name}.md"
    text = path.read_text()
    assert re.search(r"127\.0\.0\.1:\d+|make \w+|\.run/logs|[Ll]ocal stack", text), "no local address"
    assert "`kubectl " in text, "no command for a cluster"
    assert "ROUTER:" not in text, "an address that exists nowhere"
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (path.parent / target).is_file(), target


def test_there_is_no_runbook_without_an_alert() -> None:
    assert {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"} == set(EVERY_ALERT)


def test_no_alert_looks_at_utilisation_alone() -> None:
    assert not [alert.name for alert in ALERTS.values() if re.search("util|kv_cache", alert.expression)]


@pytest.mark.parametrize("factor", [1.0, 1 / 30])
def test_every_expression_parses_at_every_time_scale(factor: float) -> None:
    scale = TimeScale(factor)
    for group in [*recording_groups(scale), *alert_groups(scale)]:
        for rule in group["rules"]:
            promql_parser.parse(rule["expr"])


def test_objectives_leave_room_for_their_burn_rates() -> None:
    for name, objective in objectives().items():
        assert 14.4 * (1 - objective["target"]) < 1, f"{name}: the fast burn could never be reached"


def test_alerts_link_to_the_console_where_there_is_one() -> None:
    linked = alert_groups(console="http://console:8091")[0]["rules"]
    assert {rule["annotations"]["console_url"] for rule in linked} == {
        "http://console:8091/why?window=5m&pool={{ $labels.pool }}"
    }
    assert not any("console_url" in rule["annotations"] for rule in alert_groups()[0]["rules"])
