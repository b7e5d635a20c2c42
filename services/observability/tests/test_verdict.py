"""The verdict names one layer per pool, from the evidence that docs/bottlenecks.md describes."""

import subprocess
from pathlib import Path

import pytest
import yaml

from observability.rules.verdict import recording_groups

SUMS = 'router_ttft_component_seconds_sum_by{{pool="p",component="{}"}}'
STEPS = 480


def world(**means: float) -> dict[str, str]:
    """A pool that serves ten first tokens a second, with these mean seconds per component."""
    series = {
        'router_usable_backends{pool="p"}': f"2x{STEPS}",
        'router_backend_requests_total{pool="p",backend="a"}': f"0+150x{STEPS}",
        'router_backend_requests_total{pool="p",backend="b"}': f"0+150x{STEPS}",
        'router_first_tokens_total{pool="p"}': f"0+150x{STEPS}",
        'router_queue_length{pool="p"}': f"0x{STEPS}",
        "router_event_loop_lag_seconds_sum": f"0+0.06x{STEPS}",
        "router_event_loop_lag_seconds_count": f"0+60x{STEPS}",
        'backend_state{backend="a",state="working"}': f"1x{STEPS}",
        'vllm:inter_token_latency_seconds_sum{backend="a"}': f"0+15x{STEPS}",
        'vllm:inter_token_latency_seconds_count{backend="a"}': f"0+500x{STEPS}",
        'vllm:generation_tokens_total{backend="a"}': f"0+500x{STEPS}",
        'vllm:prompt_tokens_total{backend="a"}': f"0+300x{STEPS}",
        'vllm:prefix_cache_hits_total{backend="a"}': f"0+100x{STEPS}",
        'vllm:num_preemptions_total{backend="a"}': f"0x{STEPS}",
        "router_affinity_store_up": f"1x{STEPS}",
    }
    parts = {"edge": 0.002, "router": 0.001, "connect": 0.001, "engine_queue": 0.01, "prefill": 0.1, **means}
    for component, mean in parts.items():
        series[SUMS.format(component)] = f"0+{150 * mean}x{STEPS}"
    return series


WORLDS = {
    "healthy": (world(), "none"),
    "a long prefill alone is nobody's fault": (world(prefill=3.0), "none"),
    "waiting in the engine": (world(engine_queue=0.9), "capacity"),
    "waiting in the router queue": (world(router_queue=2.0), "capacity"),
    "short waits of a fast pool do not count": (world(engine_queue=0.09, prefill=0.01), "none"),
    "a standing line": ({**world(), 'router_queue_length{pool="p"}': f"4x{STEPS}"}, "capacity"),
    "a slow router": (world(router=0.4), "routing"),
    "a slow network to the engines": (world(network=0.2), "routing"),
    "a starved edge": (world(edge=0.5), "routing"),
    "a blocked event loop": (
        {**world(), "router_event_loop_lag_seconds_sum": f"0+12x{STEPS}"},
        "routing",
    ),
    "a stuck backend explains the queue": (
        {**world(engine_queue=0.9), 'backend_state{backend="b",state="stuck"}': f"1x{STEPS}"},
        "execution",
    ),
    "another pool's stuck backend does not": (
        {**world(), 'backend_state{backend="other",state="stuck"}': f"1x{STEPS}"},
        "none",
    ),
    "decoding at a third of its own speed": (
        {
            **world(),
            'vllm:inter_token_latency_seconds_sum{backend="a"}': "0+15x400 6045+45x80",
        },
        "execution",
    ),
    "a slower engine explains its queue": (
        {
            **world(engine_queue=0.9),
            'vllm:inter_token_latency_seconds_sum{backend="a"}': "0+15x400 6045+45x80",
        },
        "execution",
    ),
    "decoding slowly because there is more to do": (
        {
            **world(engine_queue=0.9),
            'vllm:inter_token_latency_seconds_sum{backend="a"}': "0+15x400 6090+90x80",
            'vllm:inter_token_latency_seconds_count{backend="a"}': "0+500x400 201000+1000x80",
            'vllm:generation_tokens_total{backend="a"}': "0+500x400 201000+1000x80",
        },
        "capacity",
    ),
    "decoding slowly between longer prefills": (
        {
            **world(prefill=0.9),
            'vllm:inter_token_latency_seconds_sum{backend="a"}': "0+15x400 6045+45x80",
            'vllm:prompt_tokens_total{backend="a"}': "0+300x400 124000+4000x80",
        },
        "none",
    ),
    "a KV cache that is too small, although tokens come slowly": (
        {
            **world(),
            'vllm:inter_token_latency_seconds_sum{backend="a"}': "0+15x400 6045+45x80",
            'vllm:num_preemptions_total{backend="a"}': "0x400 5+5x80",
        },
        "capacity",
    ),
    "sessions away from their backends because pins cannot be read": (
        {
            **world(prefill=0.5),
            'router_first_tokens_total{pool="p",affinity="kept"}': "0+150x400 60000x80",
            'router_first_tokens_total{pool="p",affinity="placed"}': "0x400 150+150x80",
            "router_affinity_store_up": "1x400 0x80",
        },
        "routing",
    ),
    "an affinity store that is down and costs nothing": (
        {
            **world(),
            'router_first_tokens_total{pool="p",affinity="kept"}': f"0+150x{STEPS}",
            "router_affinity_store_up": "1x400 0x80",
        },
        "none",
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_verdict_is_right_and_only_one(name: str, tmp_path: Path) -> None:
    series, expected = WORLDS[name]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": recording_groups()}))
    samples = [
        {
            "labels": f'pool:bottleneck:verdict{{pool="p",verdict="{verdict}"}}',
            "value": int(verdict == expected),
        }
        for verdict in ("execution", "routing", "capacity", "none")
    ]
    test = {
        "interval": "15s",
        "input_series": [{"series": key, "values": value} for key, value in series.items()],
        "promql_expr_test": [
            {"expr": "pool:bottleneck:verdict", "eval_time": "110m", "exp_samples": samples}
        ],
    }
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
