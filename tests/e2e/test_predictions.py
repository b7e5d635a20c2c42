"""`router-service what-if` against the engine simulator: a load recorded on two engines, predicted for other fleets, and
played there. The simulator's engines run on a virtual clock, so no result depends on the machine.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from engine_simulator import engine as engine_module
from engine_simulator.engine import Capacity, Engine, Sequence, Timing
from engine_simulator.faults import Faults
from engine_simulator.language import Continuation
from router_service.cli.what_if import Forecast, Question, Times, forecast
from router_service.config import RouterConfig, load
from router_service.routing.decide import decide
from router_service.routing.features import Features
from router_service.routing.policy import Policy
from router_service.routing.snapshot import BackendView, PoolView, Snapshot

BEGAN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
WITHIN = 0.15
RECORDED_ENGINES = 2


@dataclass(frozen=True)
class Asked:
    """One request of a workload: when, how many prompt tokens, how many tokens of answer."""

    at: float
    prompt: int
    tokens: int


def poisson(draws: random.Random, rate: float, seconds: float) -> Iterator[float]:
    at = draws.expovariate(rate)
    while at < seconds:
        yield at
        at += draws.expovariate(rate)


def chat(draws: random.Random) -> list[Asked]:
    return [Asked(at, draws.randint(20, 400), draws.randint(8, 120)) for at in poisson(draws, 8, 500)]


def busy(draws: random.Random) -> list[Asked]:
    return [Asked(at, draws.randint(20, 300), draws.randint(20, 200)) for at in poisson(draws, 18, 60)]


def long_prompts(draws: random.Random) -> list[Asked]:
    return [Asked(at, draws.randint(400, 1600), draws.randint(4, 40)) for at in poisson(draws, 1.5, 500)]


def bursts(draws: random.Random) -> list[Asked]:
    return [
        Asked(at, draws.randint(50, 500), draws.randint(10, 80))
        for at in poisson(draws, 10, 250)
        if at % 20 < 8
    ]


def long_answers(draws: random.Random) -> list[Asked]:
    return [Asked(at, draws.randint(10, 100), draws.randint(100, 600)) for at in poisson(draws, 2, 400)]


class JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting, lets the clock of the loop jump."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def on_virtual_clock(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> Any:
    """Run ``work`` in a loop whose time passes without waiting."""
    selector = JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    monkeypatch.setattr(loop, "time", lambda: selector.now)
    monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=lambda: selector.now))
    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()


async def played(workload: list[Asked], engines: int, seed: int, policy: Policy) -> list[dict[str, Any]]:
    """Play ``workload`` on engines of the simulator, chosen by the router's `decide`; return the decision records that a
    router would keep.
    """
    loop = asyncio.get_running_loop()
    draws = random.Random(seed)
    fleet = [Engine(Timing(), Capacity(max_model_len=4096), Faults(seed), seed + n) for n in range(engines)]
    running = [asyncio.ensure_future(engine.run()) for engine in fleet]
    pool = PoolView(
        "general", [BackendView(str(number), "general", "", unusable=None) for number in range(engines)]
    )
    records: list[dict[str, Any]] = []

    async def one(asked: Asked) -> None:
        await asyncio.sleep(asked.at - loop.time())
        decision = decide(Features(model="m"), Snapshot({"general": pool}), policy, loop.time())
        chosen = decision.chosen
        assert chosen is not None
        pool.round_robin = decision.place + 1
        chosen.in_flight += 1
        complete = asyncio.Event()
        sequence = Sequence(
            prompt_ids=[draws.randrange(50_000) for _ in range(asked.prompt)],
            continuation=Continuation("a"),
            max_tokens=asked.tokens,
            min_tokens=0,
            ignore_eos=True,
            emit=lambda text, token, finish: complete.set() if finish else None,
            arrived_at=loop.time(),
        )
        fleet[decision.place].submit(sequence)
        await complete.wait()
        chosen.in_flight -= 1
        records.append(record_of(asked, sequence, chosen.name, len(records)))

    await asyncio.gather(*map(one, workload))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return records


def record_of(asked: Asked, sequence: Sequence, backend: str, number: int) -> dict[str, Any]:
    assert sequence.scheduled_at is not None
    assert sequence.first_token_at is not None
    assert sequence.last_token_at is not None
    queue = (sequence.scheduled_at - sequence.arrived_at) * 1e3
    prefill = (sequence.first_token_at - sequence.scheduled_at) * 1e3
    candidate = {
        "backend": backend, "pool": "general", "eligible": True, "rejected_because": None, "in_flight": 0,
        "limit": 256, "score": 0.0,
    }  # fmt: skip
    return {
        "request_id": str(number),
        "config_hash": "a",
        "time": datetime.fromtimestamp(BEGAN + asked.at, UTC).isoformat(),
        "path": "/v1/chat/completions",
        "model": "m",
        "stream": True,
        "features": {},
        "pool": "general",
        "chosen": backend,
        "candidates": [candidate],
        "tokens": {"prompt": asked.prompt, "completion": asked.tokens, "cached": 0, "reasoning": None},
        "ttft_ledger_ms": {"router": 1.0, "engine_queue": queue, "prefill": prefill, "relay": 1.0},
        "first_token_ms": queue + prefill + 2.0,
        "decode_ms": (sequence.last_token_at - sequence.first_token_at) * 1e3,
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RouterConfig:
    file = tmp_path_factory.mktemp("what-if") / "router.yaml"
    pool = {"models": ["m"], "policy": "least_loaded", "backends": {"a": {"url": "http://127.0.0.1:1"}}}
    patient = {"queue_size": 100_000, "queue_seconds": 600}
    document = {"pools": {"general": pool}, "routing": {"default_pool": "general"}, "limits": patient}
    file.write_text(yaml.safe_dump(document))
    return load(file)


def ask(records: list[dict[str, Any]], config: RouterConfig, engines: int) -> Forecast:
    return forecast(records, config, Question("general", engines, None, 1.0, 1.0))


@pytest.mark.parametrize("workload", [chat, busy, long_prompts, bursts, long_answers])
@pytest.mark.parametrize("engines", [1, 3])
def test_a_prediction_is_within_15_percent_of_what_then_happens(
    monkeypatch: pytest.MonkeyPatch,
    config: RouterConfig,
    workload: Callable[[random.Random], list[Asked]],
    engines: int,
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    load_of = workload(random.Random(seed))
    recorded = on_virtual_clock(monkeypatch, lambda: played(load_of, RECORDED_ENGINES, seed, config.policy))
    found = ask(recorded, config, engines)
    happened = on_virtual_clock(monkeypatch, lambda: played(load_of, engines, seed + 1, config.policy))
    real = Times.of([record["first_token_ms"] / 1e3 for record in happened], 1.0)
    assert real is not None
    assert found.asked is not None
    print(f"fitted {found.times}, errors of the recorded load {found.errors}")
    for name in ("p50", "p95"):
        predicted, was = getattr(found.asked, name), getattr(real, name)
        print(f"{name}: predicted {predicted:.4f} s, was {was:.4f} s, error {predicted / was - 1:+.1%}")
    assert abs(found.asked.p50 / real.p50 - 1) <= WITHIN
    assert abs(found.asked.p95 / real.p95 - 1) <= WITHIN


def test_the_engines_times_are_found_again(monkeypatch: pytest.MonkeyPatch, config: RouterConfig) -> None:
    load_of = busy(random.Random(1))
    recorded = on_virtual_clock(monkeypatch, lambda: played(load_of, RECORDED_ENGINES, 1, config.policy))
    times = ask(recorded, config, 2).times
    assert times.step == pytest.approx(Timing().step_seconds, rel=0.2)
    assert times.per_request == pytest.approx(Timing().step_seconds_per_sequence, rel=0.25)
    assert times.per_token == pytest.approx(Timing().prefill_seconds_per_token, rel=0.1)
