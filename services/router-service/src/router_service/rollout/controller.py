"""The controller: reads the configuration and the routers' records, decides, and writes the weights file.

It is not on the path of a request. While it is down, routers keep the shares of the weights file.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from router_service.background import Log
from router_service.config import BadConfig, RouterConfig, load
from router_service.config.rollout_model import ShareSection
from router_service.rollout.leader import Leader
from router_service.rollout.plan import Plan, as_json
from router_service.rollout.router_records import RouterRecords
from router_service.rollout.run import Decision, RolloutRun
from router_service.rollout.weights_store import write_weights

POLL_SECONDS = 2.0


class Controller:
    """Runs every rollout of the configuration at ``path``. ``clock`` returns epoch seconds."""

    def __init__(self, path: Path, leader: Leader, log: Log, clock: Callable[[], float]) -> None:
        self._path = path
        self._leader = leader
        self._log = log
        self._clock = clock
        self._runs: dict[str, RolloutRun] = {}
        self._records = RouterRecords()
        self._said: dict[str, object] = {}

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                await self.turn()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await self._leader.close()
            await self._records.close()

    async def turn(self) -> None:
        """Poll once and decide what is due. Without the lock nothing is read or written."""
        leads = await self._leader.keep()
        self._say_once("info", "rollout_leader", leads=leads)
        if not leads:
            self._runs = {}  # Another controller decides; its weights file has the state.
            return
        try:
            config = load(self._path)
        except BadConfig as error:
            self._say_once("error", "config_refused", problems=str(error).splitlines())
            return
        self._say_once("info", "config_refused", problems=[])
        self._update(config)
        if not self._runs:
            return
        records = await self._records.poll(config.values, list(self._runs))
        self._say_once("warning", "rollout_routers_silent", routers=self._records.silent)
        for run in self._runs.values():
            run.add(records)
            if (decision := run.decide()) is not None and self._store(config, decision):
                run.stored(decision)

    def _update(self, config: RouterConfig) -> None:
        plans = [Plan.of(rule) for rule in config.rules if rule.rollout is not None]
        self._runs = {
            plan.rule: self._runs.get(plan.rule)
            or RolloutRun(plan, config.shares.get(plan.rule), self._clock)
            for plan in plans
        }
        for plan in plans:
            self._runs[plan.rule].update(plan, config.shares.get(plan.rule))

    def _store(self, config: RouterConfig, decision: Decision) -> bool:
        """Write the share into the weights file and log the decision. Return False if it could not be written."""
        name = config.values.routing.weights_file
        assert name is not None  # A rollout without a weights file is refused.
        shares: dict[str, ShareSection] = {**config.shares, decision.plan.rule: decision.share}
        for rule, run in self._runs.items():
            if rule != decision.plan.rule and run.share is not None:
                shares[rule] = run.share
        if not self._leader.held():
            return False
        try:
            write_weights(self._path.parent / name, shares)
        except OSError as error:
            self._log(
                "error", "rollout_not_written", file=str(self._path.parent / name), detail=str(error.strerror)
            )
            return False
        self._log(
            "warning" if decision.step.action == "back" else "info",
            "rollout_decided",
            rule=decision.plan.rule,
            step=as_json(decision.step),
            state=None if decision.state is None else as_json(decision.state),
            plan=as_json(decision.plan),
            evidence=as_json(decision.evidence),
        )
        return True

    def _say_once(self, level: str, event: str, **values: object) -> None:
        """Log ``values`` if they differ from the last call. A first call with only empty values is not logged."""
        known = self._said.get(event)
        self._said[event] = values
        if known == values or (known is None and not any(values.values())):
            return
        self._log(level, event, **values)
