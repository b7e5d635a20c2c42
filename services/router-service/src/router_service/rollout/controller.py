"""The controller: reads the configuration and the routers' records, decides, and writes the weights file.

It is not on the path of a request. While it is down, routers keep the shares of the weights file.
"""

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

from router_service.background import Log
from router_service.config import BadConfig, RouterConfig, load
from router_service.config.rollout_model import ShareSection
from router_service.rollout.leader import Leader
from router_service.rollout.plan import Plan, as_json
from router_service.rollout.router_records import RouterRecords
from router_service.rollout.run import Decision, RolloutRun
from router_service.rollout.weights_store import WeightsProblem, WeightsStore

POLL_SECONDS = 2.0


class Controller:
    """Runs every rollout of the configuration at ``path``. ``clock`` returns epoch seconds.

    ``turned`` is called after every turn, with what kept the controller from working.
    """

    def __init__(
        self,
        path: Path,
        leader: Leader,
        weights: WeightsStore,
        log: Log,
        clock: Callable[[], float],
        turned: Callable[[str | None], None] = lambda problem: None,
    ) -> None:
        self._path = path
        self._leader = leader
        self._weights = weights
        self._turned = turned
        self._log = log
        self._clock = clock
        self._runs: dict[str, RolloutRun] = {}
        self._records = RouterRecords()
        self._said: dict[str, object] = {}
        self._salt = secrets.token_hex(16)  # so that no client can choose which of its requests are sampled

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._turned(await self.turn())
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await self._leader.close()
            await self._records.close()
            await self._weights.close()

    async def turn(self) -> str | None:
        """Poll once and decide what is due. Return what kept the controller from that.

        Without the lock nothing is decided or written.
        """
        leads = await self._leader.keep()
        self._say_once("info", "rollout_leader", leads=leads)
        self._say_once("warning", "rollout_lock_unreachable", problem=self._leader.problem)
        try:
            await self._weights.refresh()
        except WeightsProblem as error:
            # Without the state a decision could contradict it. The routers keep their shares.
            self._say_once("error", "rollout_not_read", problem=str(error))
            return str(error)
        self._say_once("info", "rollout_not_read", problem=None)
        if not leads:
            self._runs = {}  # Another controller decides; its weights file has the state.
            return self._leader.problem
        try:
            config = load(self._path)
        except BadConfig as error:
            self._say_once("error", "config_refused", problems=str(error).splitlines())
            return str(error)
        self._say_once("info", "config_refused", problems=[])
        self._find_stored(config)
        self._update(config)
        if not self._runs:
            return None
        records = await self._records.poll(config.values, list(self._runs))
        self._say_once("warning", "rollout_routers_silent", routers=self._records.silent)
        problem = None
        for run in self._runs.values():
            run.add(records)
            if (decision := run.decide()) is not None:
                problem = await self._store(config, decision) or problem
        self._say_once("error" if problem else "info", "rollout_not_written", problem=problem)
        return problem

    def _find_stored(self, config: RouterConfig) -> None:
        """Find decisions that were stored although the write seemed to fail, for example because of a timeout."""
        for rule, run in self._runs.items():
            if run.pending is not None and config.shares.get(rule) == run.pending.share:
                self._stored(run.pending)

    def _stored(self, decision: Decision) -> None:
        self._runs[decision.plan.rule].stored(decision)
        self._log(
            "warning" if decision.step.action == "back" else "info",
            "rollout_decided",
            rule=decision.plan.rule,
            step=as_json(decision.step),
            state=None if decision.state is None else as_json(decision.state),
            plan=as_json(decision.plan),
            evidence=as_json(decision.evidence),
        )

    def _update(self, config: RouterConfig) -> None:
        plans = [Plan.of(rule) for rule in config.rules if rule.rollout is not None]
        self._runs = {
            plan.rule: self._runs.get(plan.rule)
            or RolloutRun(plan, config.shares.get(plan.rule), self._clock, self._salt)
            for plan in plans
        }
        for plan in plans:
            self._runs[plan.rule].update(plan, config.shares.get(plan.rule))

    async def _store(self, config: RouterConfig, decision: Decision) -> str | None:
        """Write the share and log the decision. Return why it could not be written."""
        name = config.values.routing.weights_file
        assert name is not None  # A rollout without a weights file is refused.
        shares: dict[str, ShareSection] = {**config.shares, decision.plan.rule: decision.share}
        for rule, run in self._runs.items():
            if rule != decision.plan.rule and run.share is not None:
                shares[rule] = run.share
        if not self._leader.held():
            return "the lock ends before a write could be sure to be the only one"
        try:
            await self._weights.write(self._path.parent / name, shares)
        except WeightsProblem as error:
            return str(error)
        self._stored(decision)
        return None

    def _say_once(self, level: str, event: str, **values: object) -> None:
        """Log ``values`` if they differ from the last call. A first call with only empty values is not logged."""
        known = self._said.get(event)
        self._said[event] = values
        if known == values or (known is None and not any(values.values())):
            return
        self._log(level, event, **values)
