"""Rollouts on a virtual clock: synthetic engines of random quality, the real rules, weights file, evidence and steps.

A worse pool must be taken back within two windows of its fault; a pool as good as the old one must never be.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from router_service.config import RouterConfig, load
from router_service.rollout.plan import Plan
from router_service.rollout.run import Decision, RolloutRun
from router_service.routing.features import Features

pytestmark = pytest.mark.timeout(600)

WINDOW = 60.0
STEPS = (10.0, 25.0, 50.0, 90.0)
"""The last step leaves requests at the old pool, so that a fault at any time has something to be compared with."""

LIMITS = {
    "ttft_p50": 1.25,
    "ttft_p95": 1.5,
    "gap_p50": 1.25,
    "gap_p95": 1.5,
    "errors": 0.02,
    "truncations": 0.02,
}
KINDS = ("slower first token", "slower tokens", "errors", "truncations")


@dataclass(frozen=True)
class Fault:
    """A fault of the new pool from ``at`` seconds after the start on. ``size``: a factor of times, or a share."""

    kind: str
    size: float
    at: float


@dataclass(frozen=True)
class Engines:
    """Both pools without a fault: requests per second, medians and spread of times (ms), shares of bad ends."""

    rate: float
    first_ms: float
    gap_ms: float
    spread: float
    errors: float
    truncations: float

    @classmethod
    def drawn(cls, random: Random) -> "Engines":
        """Return engines of random speed and quality."""
        return cls(
            random.uniform(15, 40),
            random.uniform(80, 800),
            random.uniform(8, 60),
            random.uniform(0.2, 0.6),
            random.uniform(0, 0.01),
            random.uniform(0, 0.005),
        )


@dataclass(frozen=True)
class Attacker:
    """A client that sends ``share`` of all requests, each with the fault ``kind`` and an id that goes to ``pool``."""

    share: float
    pool: str
    kind: str


@dataclass(frozen=True)
class Senders:
    """The clients by the weights of their requests, and one that attacks."""

    weights: tuple[float, ...] = (1.0,)
    attacker: Attacker | None = None

    @classmethod
    def drawn(cls, random: Random, attacker: Attacker | None = None) -> "Senders":
        """Return 3 to 8 clients, of which the largest sends up to ten times as much as the smallest."""
        return cls(tuple(random.uniform(1, 10) for _ in range(random.randint(3, 8))), attacker)


class World:
    """A router that obeys the weights file, two synthetic pools, and one rollout."""

    def __init__(
        self,
        folder: Path,
        engines: Engines,
        random: Random,
        fault: Fault | None,
        senders: Senders = Senders(),
    ) -> None:
        self._senders = senders
        self.now = 1_800_000_000.0
        self.began = self.now
        self._engines, self._random, self._fault = engines, random, fault
        self._folder = folder
        self._busy = 0.0
        rollout = {
            "to": "new", "steps": [*STEPS], "window_seconds": WINDOW, "min_requests": 100, "objectives": LIMITS,
        }  # fmt: skip
        pools = {
            name: {"models": ["m"], "backends": {name + "-1": {"url": "http://h:1"}}}
            for name in ("old", "new")
        }
        routing = {"default_pool": "old", "rules_file": "rules.yaml", "weights_file": "weights.yaml"}
        rule = {"name": "r", "when": {}, "route_to": "old", "rollout": rollout}
        (folder / "router.yaml").write_text(yaml.safe_dump({"pools": pools, "routing": routing}))
        (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
        (folder / "weights.yaml").unlink(missing_ok=True)
        self.config: RouterConfig = load(folder / "router.yaml")
        self.run = RolloutRun(Plan.of(self.config.rules[0]), None, lambda: self.now)
        self.decisions: list[tuple[float, Decision]] = []

    def play(self, seconds: float, until: tuple[str, ...] = ("back",)) -> None:
        """Let requests arrive one after the other, until ``seconds`` have passed or an action of ``until``."""
        end = self.now + seconds
        while self.now < end:
            if (decision := self.run.decide()) is not None:
                self.decisions.append((self.now - self.began, decision))
                share = decision.share.model_dump(mode="json")
                (self._folder / "weights.yaml").write_text(yaml.safe_dump({"rollouts": {"r": share}}))
                self.config = load(self._folder / "router.yaml")
                self.run.stored(decision)
                if decision.step.action in until:
                    return
            self.now += self._random.expovariate(self._engines.rate)
            # Both pools share the load's ups and downs, which make the times of neighbours alike.
            self._busy = 0.995 * self._busy + 0.02 * self._random.gauss(0, 1)
            self.run.add([self._record()])

    def _record(self) -> dict[str, Any]:
        random, engines = self._random, self._engines
        request_id = f"{random.getrandbits(64):016x}"
        rule = self.config.policy.rules[0]
        pool = rule.pool_for(Features(model="m", request_id=request_id), lambda name: True)
        fault, attacker = self._fault, self._senders.attacker
        broken = pool == "new" and fault is not None and self.now >= self.began + fault.at
        kind, size = (fault.kind, fault.size) if fault is not None and broken else ("", 0.0)
        (client,) = random.choices(range(len(self._senders.weights)), self._senders.weights)
        if attacker is not None and random.random() < attacker.share:
            client, pool, kind = -1, attacker.pool, attacker.kind
            size = 20.0 if "slower" in kind else 1.0
        busy = math.exp(self._busy)
        first = engines.first_ms * busy * random.lognormvariate(0, engines.spread)
        gap = engines.gap_ms * busy * random.lognormvariate(0, engines.spread / 3)
        first *= size if kind == "slower first token" else 1.0
        gap *= size if kind == "slower tokens" else 1.0
        outcome = "ok"
        if random.random() < max(engines.errors, size if kind == "errors" else 0.0):
            outcome = "upstream_error"
        elif random.random() < max(engines.truncations, size if kind == "truncations" else 0.0):
            outcome = "truncated"
        tokens = random.randint(20, 200)
        failed = outcome == "upstream_error"
        at = datetime.fromtimestamp(self.now, UTC).isoformat()
        share = rule.rollout
        assert share is not None
        return {
            "rollout": {"to": share.to, "percent": share.percent},
            "client_id": f"client {client}",
            "request_id": request_id, "time": at, "rule": "r", "first_pool": pool, "pool": pool, "stream": True,
            "outcome": outcome, "first_token_ms": None if failed else first, "total_ms": 0.0,
            "decode_ms": None if failed else gap * (tokens - 1), "tokens": {"completion": tokens}, "attempts": [],
        }  # fmt: skip


def faults(seeds: range) -> Iterator[tuple[int, Engines, Fault, Random]]:
    """Yield a random fault for each seed, each kind in turn."""
    for seed in seeds:
        random = Random(seed)
        engines = Engines.drawn(random)
        kind = KINDS[seed % len(KINDS)]
        size = random.uniform(2.0, 5.0) if "slower" in kind else random.uniform(0.12, 0.8)
        yield seed, engines, Fault(kind, size, random.uniform(0, 6 * WINDOW)), random


@pytest.mark.parametrize("first", range(0, 20, 5))
def test_twenty_worse_pools_go_back_within_two_windows(tmp_path: Path, first: int) -> None:
    late = []
    for seed, engines, fault, random in faults(range(first, first + 5)):
        world = World(tmp_path, engines, random, fault)
        world.play(fault.at + 20 * WINDOW)
        at, last = world.decisions[-1]
        windows = (at - fault.at) / WINDOW if last.step.action == "back" else math.inf
        print(
            f"seed {seed}: {fault.kind}, size {fault.size:.2f}, from {fault.at:.0f} s on, {engines.rate:.0f} requests/s: "
            f"{last.step.action} from {last.state.percent if last.state else 0:g} % for {last.step.reason} "
            f"after {windows:.2f} windows"
        )
        if not 0 <= windows <= 2:
            late.append(seed)
    print(f"worse pools that did not go back within two windows: {len(late)} of 5")
    assert not late


@pytest.mark.parametrize(
    "first",
    [pytest.param(first, marks=pytest.mark.full if first >= 1010 else ()) for first in range(1000, 1050, 5)],
)
def test_fifty_good_pools_never_go_back_and_reach_the_last_step(tmp_path: Path, first: int) -> None:
    """A good pool differs a little from the old one, by less than the objectives allow."""
    wrong = []
    for seed in range(first, first + 5):
        random = Random(seed)
        engines = Engines.drawn(random)
        little = Fault(KINDS[seed % 2], random.uniform(0.9, 1.08), 0.0)
        world = World(tmp_path, engines, random, little)
        world.play(30 * WINDOW, until=("back", "finish"))
        actions = [decision.step.action for _, decision in world.decisions]
        print(f"seed {seed}: times by {little.size:.2f}, {engines.rate:.0f} requests/s: {' '.join(actions)}")
        if "back" in actions or world.decisions[-1][1].step.state != "done":
            wrong.append(seed)
    print(f"good pools that went back or did not arrive: {len(wrong)} of 5")
    assert not wrong


@pytest.mark.parametrize(
    "first", [pytest.param(first, marks=pytest.mark.full if first >= 10 else ()) for first in range(0, 20, 5)]
)
def test_twenty_worse_pools_of_several_clients_go_back_within_two_windows(tmp_path: Path, first: int) -> None:
    late = []
    for seed, engines, fault, random in faults(range(first, first + 5)):
        world = World(tmp_path, engines, random, fault, Senders.drawn(random))
        world.play(fault.at + 20 * WINDOW)
        at, last = world.decisions[-1]
        windows = (at - fault.at) / WINDOW if last.step.action == "back" else math.inf
        print(
            f"seed {seed}: {fault.kind}, size {fault.size:.2f}: {last.step.action} after {windows:.2f} windows"
        )
        if not 0 <= windows <= 2:
            late.append(seed)
    assert not late


@pytest.mark.parametrize("share", [pytest.param(0.1, marks=pytest.mark.full), 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_whose_own_requests_fail_at_the_new_pool_never_makes_it_go_back(
    tmp_path: Path, kind: str, share: float
) -> None:
    """It provokes timeouts, and sends them with ids that the rule sends to the new pool."""
    random = Random(f"{kind} {share}")
    attacker = Attacker(share, "new", kind)
    world = World(tmp_path, Engines.drawn(random), random, None, Senders.drawn(random, attacker))
    world.play(8 * WINDOW)
    actions = [decision.step.action for _, decision in world.decisions]
    findings = [one for _, decision in world.decisions for one in decision.step.findings]
    verdicts = {one.verdict for one in findings}
    print(f"{kind}, {share:.0%} of the requests: {' '.join(actions)}; verdicts {sorted(verdicts)}")
    assert "back" not in actions
    assert "one_client" in verdicts, "the attack worked"


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_whose_requests_fail_at_the_old_pool_hides_no_worse_pool(tmp_path: Path, kind: str) -> None:
    random = Random(kind)
    size = 3.0 if "slower" in kind else 0.3
    attacker = Attacker(0.3, "old", kind)
    fault = Fault(kind, size, 0.0)
    world = World(tmp_path, Engines.drawn(random), random, fault, Senders.drawn(random, attacker))
    world.play(8 * WINDOW, until=("back", "advance"))
    actions = [decision.step.action for _, decision in world.decisions]
    print(f"{kind}: {' '.join(actions)}")
    assert "advance" not in actions


@pytest.mark.parametrize("percent", STEPS)
def test_a_session_only_moves_to_the_new_pool_while_the_share_rises(tmp_path: Path, percent: float) -> None:
    world = World(tmp_path, Engines.drawn(Random(1)), Random(1), None)

    def at_new(share: float) -> set[str]:
        text = yaml.safe_dump({"rollouts": {"r": {"to": "new", "percent": share}}})
        (tmp_path / "weights.yaml").write_text(text)
        rule = load(tmp_path / "router.yaml").policy.rules[0]
        sessions = [f"s{number}" for number in range(2000)]
        return {
            s for s in sessions if rule.pool_for(Features(model="m", session=s), lambda name: True) == "new"
        }

    assert world.config.policy.rules[0].targets[0].pool == "old"
    moved = at_new(percent)
    assert len(moved) / 2000 == pytest.approx(percent / 100, abs=0.04)
    assert at_new(percent / 2) < moved
