"""Agents distinguish saturated from stuck: agents of simulators with faults of random size at random times.

Both errors are counted on the same runs: a wedge that is not called stuck within 15 s (missed), and anything
else that is called stuck at any time (false). The seed and every run are printed.
"""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend_agent.agent import Agent, WatchedEngine
from backend_agent.devices import DcgmDevice
from backend_agent.judgement import State
from backend_agent.model_file import Engine, ModelFile, Needs, WarmUp
from backend_agent.telemetry import Metrics
from harness.ports import free_port
from harness.processes import answers, running
from harness.servers.router_fleet import UNTIL_CLEARED

ROOT = Path(__file__).resolve().parents[3]
SIMULATOR = ROOT / ".venv" / "bin" / "engine-simulator"
MODEL = "sim"
STUCK_SECONDS = 15.0
LOOK_SECONDS = 0.2
MODEL_FILE = ModelFile(
    name=MODEL,
    source="none",
    licence="none",
    engine=Engine(max_model_len=8192, max_num_seqs=8),
    needs=Needs(memory_gib=1, disk_gib=1),
    warm_up=WarmUp(prompt_words=[8, 100], max_rounds=2),
)
S = State


@dataclass(frozen=True)
class Case:
    """A fault of an engine under ``clients`` concurrent requests, and the states that its agent may report."""

    faults: tuple[dict[str, Any], ...]
    said: frozenset[State]  # the agent must report one of these after the fault
    clients: int = 4
    kv_tokens: int = 400_000


def cases(seed: int) -> dict[str, Case]:
    """Return the faults by name. Sizes are random; a name describes the part that every run shares."""
    some = random.Random(seed)
    wedge = {"kind": "wedge"}
    xid = {"kind": "xid_noise"}
    silent = {"kind": "telemetry_silent"}
    slow = {"kind": "slow", "factor": some.uniform(4, 20)}
    throttled = {"kind": "throttled", "factor": some.uniform(2, 6)}
    prefill = {"kind": "long_prefill", "seconds": some.uniform(28, 32)}
    full = {"kind": "kv_full", "factor": some.uniform(0.001, 0.0015)}
    at_work = frozenset({S.WORKING, S.SATURATED})
    return {
        "wedge, few requests": Case((wedge,), frozenset({S.STUCK}), clients=1),
        "wedge, some requests": Case((wedge,), frozenset({S.STUCK}), clients=some.randint(3, 7)),
        "wedge under overload": Case((wedge,), frozenset({S.STUCK}), clients=some.randint(20, 40)),
        "wedge and an XID": Case((wedge, xid), frozenset({S.STUCK})),
        "wedge while slow": Case((slow, wedge), frozenset({S.STUCK})),
        "healthy": Case((), at_work),
        "overload": Case((), frozenset({S.SATURATED}), clients=some.randint(20, 60)),
        "slow decode": Case((slow,), at_work),
        "throttled clocks": Case((throttled,), frozenset({S.THROTTLED})),
        "prefill of half a minute": Case((prefill,), at_work, clients=some.randint(1, 3)),
        "XID on a healthy device": Case((xid,), at_work),
        "KV cache full": Case((full,), frozenset({S.SATURATED})),
        "telemetry silent": Case((silent,), at_work),
        # Until the bound of two minutes nobody can tell: not called stuck, and not called healthy either.
        "wedge, telemetry silent": Case((silent, wedge), frozenset({S.UNKNOWN})),
    }


@dataclass
class Run:
    """One engine, its agent and what was seen."""

    name: str
    case: Case
    port: int
    fault_at: float = 0.0
    fault_hits: dict[str, int] = field(default_factory=dict)
    states: list[tuple[float, State]] = field(default_factory=list)
    tokens: int = 0
    late: list[tuple[float, float]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def first(self, state: State) -> float | None:
        """Seconds from the fault to the first time this was said; negative when it was said before."""
        return next((at - self.fault_at for at, said in self.states if said is state), None)

    def standstill(self) -> float:
        """Seconds after the fault in which this process did not get to run: the machine's, not the agent's."""
        return sum(seconds for at, seconds in self.late if at > self.fault_at)


@contextlib.contextmanager
def simulators(runs: list[Run], folder: Path, seed: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for number, run in enumerate(runs):
            command = [
                str(SIMULATOR), "serve", "--port", str(run.port), "--seed", str(seed + number), "--model", MODEL,
                "--max-num-seqs", "8", "--kv-tokens", str(run.case.kv_tokens), "--step-seconds", "0.05",
            ]  # fmt: skip
            log = folder / f"{run.port}.log"
            stack.enter_context(running(command, log=log, ready=answers(f"{run.url}/health")))
        yield


async def client(run: Run, http: httpx.AsyncClient, some: random.Random) -> None:
    """Ask for one streamed answer after another; what goes wrong is the engine's own affair."""
    while True:
        body = {
            "model": MODEL,
            "prompt": " ".join(["word"] * some.randint(10, 300)),
            "max_tokens": some.randint(10, 60),
            "stream": True,
        }
        with contextlib.suppress(httpx.HTTPError):
            async with http.stream("POST", f"{run.url}/v1/completions", json=body, timeout=600) as answer:
                async for line in answer.aiter_lines():
                    run.tokens += line.startswith("data: {")
        await asyncio.sleep(0.01)


async def watch(run: Run, agent: Agent, seconds: float) -> None:
    looked = time.monotonic()
    deadline = looked + seconds
    while time.monotonic() < deadline:
        run.states.append((time.monotonic(), agent.verdict.state))
        await asyncio.sleep(LOOK_SECONDS)
        now = time.monotonic()
        if now - looked > 2 * LOOK_SECONDS:
            run.late.append((now, now - looked - LOOK_SECONDS))
        looked = now


async def play(run: Run, seed: int, seconds: float) -> None:
    some = random.Random(seed)
    metrics = Metrics(run.name)
    agent = Agent(
        WatchedEngine(run.name, run.url), MODEL_FILE, metrics, device=DcgmDevice(f"{run.url}/sim/dcgm", {})
    )
    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=None)) as http:
        agent_task = asyncio.create_task(agent.run())
        while not agent.ready:  # noqa: ASYNC110 (another task: there is no event to wait for)
            await asyncio.sleep(0.1)
        clients = [asyncio.create_task(client(run, http, some)) for _ in range(run.case.clients)]
        watching = asyncio.create_task(watch(run, agent, seconds))
        await asyncio.sleep(some.uniform(6, 10))
        run.fault_at = time.monotonic()
        for number, fault in enumerate(run.case.faults):
            if number:
                await asyncio.sleep(1.5)  # the one before has its effect first
                run.fault_at = time.monotonic()
            (
                await http.post(f"{run.url}/sim/faults", json={"seconds": UNTIL_CLEARED, **fault})
            ).raise_for_status()
        await watching
        run.fault_hits = (await http.get(f"{run.url}/sim/state")).json()["fault_hits"]
        for task in (*clients, agent_task):
            task.cancel()
        await asyncio.gather(*clients, agent_task, return_exceptions=True)


def report(runs: list[Run], seed: int) -> tuple[list[str], list[str]]:
    """Print every run and return the missed wedges and the false ones."""
    missed, false = [], []
    print(f"\nseed {seed}")
    for run in runs:
        wedged = S.STUCK in run.case.said
        seen = run.first(S.STUCK)
        if wedged and (seen is None or not 0 <= seen <= STUCK_SECONDS + run.standstill()):
            missed.append(run.name)
        if (not wedged and seen is not None) or (wedged and seen is not None and seen < 0):
            false.append(run.name)
        after = sorted({said.value for at, said in run.states if at > run.fault_at})
        when = "never stuck" if seen is None else f"stuck {seen:.1f} s after the fault"
        if run.standstill() > 0.5:
            when += f" (the machine stood still for {run.standstill():.1f} s)"
        print(f"  {run.name:26} {run.case.clients:3} clients, {run.tokens:5} tokens: {when}; said {after}")
    wedges = sum(S.STUCK in run.case.said for run in runs)
    print(f"  missed {len(missed)} of {wedges} wedges, false {len(false)} of {len(runs) - wedges} others")
    return missed, false


def matrix(tmp_path: Path, seconds: float, names: set[str] | None = None) -> list[Run]:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1, 10_000)
    runs = [
        Run(name, case, free_port()) for name, case in cases(seed).items() if names is None or name in names
    ]

    async def all_of_them() -> None:
        async with asyncio.timeout(seconds + 120):
            await asyncio.gather(*(play(run, seed + number, seconds) for number, run in enumerate(runs)))

    with simulators(runs, tmp_path, seed):
        asyncio.run(all_of_them())
    missed, false = report(runs, seed)
    assert missed == [], "a wedge that nobody saw"
    assert false == [], "called stuck and was not"
    return runs


@pytest.mark.service
@pytest.mark.timeout(240)
def test_stuck_is_seen_within_15_seconds_and_nothing_else_is_called_so(tmp_path: Path) -> None:
    for run in matrix(tmp_path, seconds=45):
        said = {state for at, state in run.states if at > run.fault_at + 1}
        assert said & run.case.said, f"{run.name}: {said}"
        for fault in run.case.faults:
            if fault["kind"] in ("wedge", "slow", "throttled", "long_prefill"):
                assert run.fault_hits.get(fault["kind"], 0) > 0, f"{run.name}: {fault['kind']} never happened"


@pytest.mark.service
@pytest.mark.full
@pytest.mark.timeout(900)
def test_ten_minutes_of_saturation_and_of_long_prefills_are_never_called_stuck(tmp_path: Path) -> None:
    names = {"overload", "KV cache full", "prefill of half a minute", "throttled clocks", "slow decode"}
    for run in matrix(tmp_path, seconds=600, names=names):
        assert run.tokens > 0
