"""`why-ttft` on a real Prometheus that remembers a wedge: what hangs comes first, what changed has its time."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.servers.recorded_prometheus import STEP_SECONDS, recorded_prometheus
from observability.main import main
from observability.why_ttft.spells import Spell
from observability.why_ttft.windows import read_circumstances
from platform_contracts.prometheus import Prometheus

pytestmark = pytest.mark.service

BEGAN = 1_795_600_000
SAMPLES = 240  # 20 minutes
WEDGED = 1100
"""Seconds after the beginning at which backend-b stopped; the last window ends 55 s later."""

ROUTER = 'job="router-service"'
Values = list[float | None]


def switched(at: float, before: float | None, after: float | None) -> Values:
    """Samples that change their value at some second."""
    return [before if step * STEP_SECONDS < at else after for step in range(SAMPLES)]


def grows(per_second: float, until: float = 1e9, since: float = 0.0) -> Values:
    """A counter that grows from one second to another."""
    return [per_second * max(min(step * STEP_SECONDS, until) - since, 0) for step in range(SAMPLES)]


SERIES: dict[str, dict[str, Values]] = {
    "up": {ROUTER: switched(0, 1, 1)},
    "router_in_flight": {
        'backend="backend-a"': switched(0, 2, 2),
        'backend="backend-b"': [min(max(0.0, step * 5 - WEDGED), 55) or 1 for step in range(SAMPLES)],
        'backend="backend-c"': [
            None if step * STEP_SECONDS < WEDGED - 100 else 3.0 if step * STEP_SECONDS >= WEDGED + 10 else 0.0
            for step in range(SAMPLES)
        ],
    },
    "router_queue_length": {'pool="general"': switched(WEDGED + 30, 0, 4)},
    "router_held_requests": {'pool="spare"': switched(WEDGED + 35, 0, 2)},
    "router_requests_total": {
        'pool="general",outcome="ok"': grows(2),
        'pool="general",outcome="refused"': grows(0.2, since=WEDGED + 20),
    },
    "router_backend_requests_total": {'pool="general",backend="backend-a"': grows(2)},
    "router_first_tokens_total": {
        'pool="general",rule="",prompt_bucket="0-500",affinity="off",slow="false"': grows(3, until=WEDGED),
    },
    "router_backend_first_tokens_total": {
        'pool="general",backend="backend-a"': grows(2),
        'pool="general",backend="backend-b"': grows(1, until=WEDGED),
    },
    "router_ttft_component_seconds_sum_by": {
        'component="prefill",pool="general",rule="",prompt_bucket="0-500",affinity="off",slow="false"': grows(0.1)
    },
    "vllm:generation_tokens_total": {
        'backend="backend-a"': grows(90),
        'backend="backend-b"': grows(50, until=WEDGED),
        # Silent, though no agent has said so yet.
        'backend="backend-c"': grows(10, until=WEDGED + 10),
    },
    "backend_state": {
        'backend="backend-b",state="stuck"': switched(WEDGED + 15, 0, 1),
        'backend="backend-b",state="working"': switched(WEDGED + 15, 1, 0),
        # Ordinary load is no change.
        'backend="backend-a",state="idle"': [float(step % 2) for step in range(SAMPLES)],
        'backend="backend-a",state="working"': [float(1 - step % 2) for step in range(SAMPLES)],
    },
    "router_change_time_seconds": {
        f'{ROUTER},kind="configuration",after="bbbb2222"': switched(WEDGED - 20, None, BEGAN + WEDGED - 23),
        f'{ROUTER},kind="breaker",backend="backend-a",after="open"': switched(WEDGED + 25, None, BEGAN + WEDGED + 21),
        f'{ROUTER},kind="backend_state",backend="backend-b",after="draining"': switched(0, BEGAN - 9, BEGAN - 9),
    },
    "router_rule_info": {
        f'{ROUTER},rule="kept",hash="1"': switched(0, 1, 1),
        f'{ROUTER},rule="long",hash="1"': switched(WEDGED - 20, 1, None),
        f'{ROUTER},rule="long",hash="2"': switched(WEDGED - 20, None, 1),
        f'{ROUTER},rule="old",hash="1"': switched(WEDGED - 20, 1, None),
        f'{ROUTER},rule="new",hash="1"': switched(WEDGED - 20, None, 1),
    },
    "backend_state_since_seconds": {'backend="backend-b"': switched(WEDGED + 15, BEGAN, BEGAN + WEDGED + 12)},
    "backend_engine_found_time_seconds": {
        'backend="backend-a"': switched(WEDGED - 195, BEGAN - 500, BEGAN + WEDGED - 196)
    },
    "envoy_http_rds_config_reload_time_ms": {
        f'job="edge-gateway",instance="{one}"': switched(WEDGED - 60, BEGAN * 1e3, (BEGAN + WEDGED - 62) * 1e3)
        for one in ("one", "two")
    },
    "router_config_info": {
        f'{ROUTER},hash="aaaa1111"': switched(WEDGED - 20, 1, None),
        f'{ROUTER},hash="bbbb2222"': switched(WEDGED - 20, None, 1),
    },
    "process_start_time_seconds": {
        'job="vllm",backend="backend-a"': switched(WEDGED - 200, BEGAN - 500, BEGAN + WEDGED - 210),
    },
    "backend_agent_start_time_seconds": {
        'backend="backend-a"': switched(0, BEGAN - 500, BEGAN - 500),
        'backend="backend-c"': switched(WEDGED - 80, BEGAN - 500, BEGAN + WEDGED - 82),
    },
    "backend_engine_starts_total": {
        'backend="backend-a",reason="process_ended"': switched(WEDGED - 195, 0, 1),
        'backend="backend-c",reason="agent_started"': switched(WEDGED - 100, 0, 1),
    },
    "backend_engine_info": {
        'backend="backend-a",version="0.31",model="m",model_file="aa11",image="e:1"': switched(WEDGED - 195, 1, None),
        'backend="backend-a",version="0.32",model="m",model_file="bb22",image="e:2"': switched(WEDGED - 195, None, 1),
        'backend="backend-b",version="0.31",model="m",model_file="aa11",image="e:1"': switched(0, 1, 1),
    },
    "envoy_server_uptime": {
        'job="edge-gateway",instance="one"': switched(WEDGED - 70, 900, 5),
        'job="edge-gateway",instance="two"': [float(step * STEP_SECONDS) for step in range(SAMPLES)],
    },
    "envoy_http_rds_version": {
        f'job="edge-gateway",instance="{one}"': switched(WEDGED - 60, 17241709254077376921, 3) for one in ("one", "two")
    },
    "envoy_http_rds_update_rejected": {'job="edge-gateway",instance="one"': switched(WEDGED - 50, 0, 1)},
    "router_backend_rejected": {
        'backend="backend-b",because="stuck"': switched(WEDGED + 15, None, 1),
        'backend="backend-a",because="breaker_open"': switched(WEDGED + 25, None, 1),
    },
    "router_affinity_store_up": {ROUTER: switched(0, 1, 1)},
    "router_config_last_reload_successful": {ROUTER: switched(0, 1, 1)},
    "ALERTS": {
        'alertname="BackendStuck",backend="backend-b",alertstate="firing"': switched(WEDGED + 20, None, 1)
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that remembers :data:`SERIES`."""
    with recorded_prometheus(tmp_path_factory.mktemp("wedge"), SERIES, BEGAN) as url:
        yield url


def asked(url: str, until: float, window: str, *more: str) -> int:
    """Run the command about a window that ends ``until`` seconds after the beginning."""
    return main(
        ["why-ttft", "--prometheus", url, "--until", str(BEGAN + until), "--window", window, "--baseline", "5m", *more]
    )  # fmt: skip


def clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(BEGAN + seconds))


def test_the_first_lines_are_the_requests_that_hang(
    prometheus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(prometheus, WEDGED + 55, "2m") == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if not line.startswith(" ")]
    seen = f"last seen {clock(WEDGED + 55)}"
    assert told[0] == f"55 requests are at backend-b, which is stuck, since {clock(WEDGED + 15)}, {seen}"
    assert told[1] == (
        f"4 requests wait in the router's queue of pool general, since {clock(WEDGED + 30)}, {seen}"
    )
    assert told[2].startswith("3 requests at backend-c get no token, and none finishes there, since ")
    assert (
        told[3] == f"2 requests wait for an engine to start in pool spare, since {clock(WEDGED + 35)}, {seen}"
    )
    assert told[4].startswith("7 requests in pool general were refused, between ")
    assert told[4].endswith(f" and {clock(WEDGED + 55)}")
    assert told[6].startswith("mean time to first token")
    assert (
        "    in the same minute: router configuration aaaa1111 -> bbbb2222, rules added new; removed old; changed long"
        in lines
    )
    assert "because" not in "\n".join(lines)


def test_every_change_is_listed_once_with_its_time(
    prometheus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(prometheus, WEDGED + 55, "2m", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    found = {change["words"]: change["at"] - BEGAN for change in answer["changes"]}
    assert found == {
        "vllm of backend-a restarted": WEDGED - 200,
        # An exported time is exact; without one it is that of the first scrape.
        "engine of backend-a started again: its process had ended": WEDGED - 196,
        "engine version of backend-a 0.31 -> 0.32": WEDGED - 196,
        "model file of backend-a aa11 -> bb22": WEDGED - 196,
        "engine image of backend-a e:1 -> e:2": WEDGED - 196,
        "backend backend-c joined": WEDGED - 100,
        "agent of backend-c restarted": WEDGED - 82,
        "edge-gateway of one restarted": WEDGED - 75,
        "edge routes changed (keys, clients or rates)": WEDGED - 62,
        "edge routes on disk refused": WEDGED - 50,
        "router configuration aaaa1111 -> bbbb2222, rules added new; removed old; changed long": WEDGED - 23,
        "backend-b is stuck": WEDGED + 12,
        "breaker of backend-a opened": WEDGED + 21,
        "alert BackendStuck (backend-b) began": WEDGED + 20,
    }
    assert [one["kind"] for one in answer["hanging"]] == ["held", "queued", "silent", "queued", "refused"]


def test_a_quiet_time_lists_nothing(prometheus: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(prometheus, 800, "4m", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["hanging"] == []
    assert answer["changes"] == []


@pytest.fixture(scope="module")
def without_requests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus of a platform without requests, whose configuration changed at the 600th second."""
    series: dict[str, dict[str, Values]] = {
        "router_config_info": {
            f'{ROUTER},hash="aaaa1111"': switched(600, 1, None),
            f'{ROUTER},hash="bbbb2222"': switched(600, None, 1),
        }
    }
    with recorded_prometheus(tmp_path_factory.mktemp("idle"), series, BEGAN) as url:
        yield url


def test_changes_are_listed_without_a_first_token(
    without_requests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(without_requests, 660, "2m") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "the window has no first token"
    assert lines[-1] == f"  {clock(600)}  router configuration aaaa1111 -> bbbb2222"


@pytest.fixture(scope="module")
def rolled_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus of a rollout on Kubernetes: the new router has a new name and another configuration, and an edge that
    was 10 s old at one scrape is 12 s old at the next, 30 s later."""
    old, new = (f'job="router-service",instance="router-{name}"' for name in ("old", "new"))
    uptime = switched(605, None, None)
    uptime[120], uptime[126] = 10.0, 12.0
    series: dict[str, dict[str, Values]] = {
        "router_config_info": {
            f'{old},hash="aaaa1111"': switched(700, 1, None),
            f'{new},hash="bbbb2222"': switched(660, None, 1),
        },
        "process_start_time_seconds": {
            old: switched(700, BEGAN - 500, None),
            new: switched(660, None, BEGAN + 655),
            'job="rate-limit-service"': switched(0, BEGAN - 500, BEGAN - 500),
        },
        "envoy_server_uptime": {
            'job="edge-gateway",instance="edge"': uptime,
            'job="edge-gateway",instance="edge-new"': [
                float(max(0, step * STEP_SECONDS - 672)) or None for step in range(SAMPLES)
            ],
        },
        # The new edge had read its second table before its first scrape.
        "envoy_http_rds_config_reload": {'instance="edge-new"': switched(675, None, 2)},
        "envoy_http_rds_config_reload_time_ms": {
            'instance="edge-new"': switched(675, None, (BEGAN + 674) * 1e3)
        },
    }
    with recorded_prometheus(tmp_path_factory.mktemp("rollout"), series, BEGAN) as url:
        yield url


def test_pods_with_new_names_and_young_processes_are_listed(
    rolled_out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(rolled_out, 760, "2m", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert {change["words"]: change["at"] - BEGAN for change in answer["changes"]} == {
        "edge-gateway of edge restarted": 618,
        "router-service of router-new started": 655,
        "router configuration aaaa1111 -> bbbb2222": 660,
        "edge-gateway of edge-new started": 672,
        "edge routes changed (keys, clients or rates)": 674,
    }


def test_a_window_with_neither_first_token_nor_change_cannot_be_answered(
    without_requests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(without_requests, 400, "2m") == 2
    assert "the window has no first token" in capsys.readouterr().err


def test_a_total_stall_without_any_first_token_is_answered(
    prometheus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(prometheus, WEDGED + 55, "30s", "--pool", "nothing-of-it") == 0
    out = capsys.readouterr().out
    assert out.startswith("55 requests are at backend-b, which is stuck")
    assert "try a longer one" not in out


def test_token_counts_of_engines_and_routers_become_means_per_request(tmp_path: Path) -> None:
    pool = 'pool="general"'
    series = {
        "router_requests_total": {f'{pool},outcome="ok"': grows(2)},
        "router_backend_requests_total": {f'{pool},backend="backend-a"': grows(2)},
        "router_tokens_total": {f'{pool},kind="reasoning"': grows(30)},
        "router_first_tokens_total": {
            f'{pool},affinity="kept"': grows(1),
            f'{pool},affinity="off"': grows(1),
        },
        "router_expected_cache_tokens_total": {
            f'{pool},kind="prompt"': grows(400),
            f'{pool},kind="cached"': grows(300),
        },
        "vllm:prompt_tokens_total": {'backend="backend-a"': grows(900)},
    }
    with recorded_prometheus(tmp_path, series, BEGAN) as url:
        found = read_circumstances(Prometheus(url), BEGAN + 300, BEGAN + 600)
    assert found.reasoning_tokens_per_request == pytest.approx(15)
    assert (found.expected_tokens, found.expected_cached) == (pytest.approx(400), pytest.approx(300))
    assert found.engine("backend-a").prompt_tokens_per_request == pytest.approx(450)


def test_a_store_that_was_down_between_two_scrapes_has_its_exact_times(tmp_path: Path) -> None:
    """The gauge misses four seconds; a store that is still down at the end of the window has no end."""
    exact = f'{ROUTER},kind="affinity_store"'
    series: dict[str, dict[str, Values]] = {
        "router_affinity_store_up": {ROUTER: switched(900, 1, 0)},
        "router_change_time_seconds": {
            f'{exact},after="lost"': switched(405, None, BEGAN + 400.5),
            f'{exact},after="up"': switched(405, None, BEGAN + 404.5),
        },
        "backend_state": {'backend="b",state="stuck"': switched(500, 1, 0)},
    }
    with recorded_prometheus(tmp_path, series, BEGAN) as url, Prometheus(url) as prometheus:
        short = read_circumstances(prometheus, BEGAN + 300, BEGAN + 600)
        never = read_circumstances(prometheus, BEGAN + 600, BEGAN + 800)
        lasting = read_circumstances(prometheus, BEGAN + 700, BEGAN + 1000)
    assert short.affinity_store_down == Spell(BEGAN + 400.5, BEGAN + 404.5, 4.0)
    assert short.engine("b").states == {"stuck": Spell(None, BEGAN + 500, 200.0)}
    assert never.affinity_store_down is None
    assert lasting.affinity_store_down == Spell(BEGAN + 900, None, 100.0)
