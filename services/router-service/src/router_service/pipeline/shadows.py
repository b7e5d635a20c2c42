"""Copies requests to the shadow pools of their rules and drops the answers (ADR 0038).

A copy has its own slots and counts. It never waits, retries or resumes, and it changes nothing of the request that it
copies, of the pool's queue, of the retry budget, of sessions or of breakers. Must not write to a client.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from time import perf_counter, time
from typing import Any, NamedTuple

from router_service.openai_api.paths import InferencePath
from router_service.pipeline.attempt_loop import end_after
from router_service.pipeline.attempts import Attempts
from router_service.pipeline.ends import End, RequestEnd
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.headers import FOR_THE_ENGINE
from router_service.pipeline.inbound import Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.output_limit import Card
from router_service.pipeline.shadow_copy import Copy
from router_service.ports import Upstream
from router_service.routing.decision import Decision
from router_service.routing.features import Features
from router_service.routing.policy import Policy
from router_service.routing.rules import Rule
from router_service.routing.shadowing import ID_SUFFIX, decide_copy, not_copied, shadow_policy, shadow_view
from router_service.routing.snapshot import BackendView, PoolView
from router_service.routing.vocabulary import NotCopied, Outcome, Unroutable
from router_service.telemetry.trace_context import continued

Finished = Callable[[Job], None]
LeftOut = Callable[[str, NotCopied], None]


class _Plan(NamedTuple):
    """How to place the copies of one rule's requests: the policy of their pool, and the rule without retries."""

    policy: Policy
    rule: Rule


class Shadows:
    """The running copies. :meth:`report_to` sets the callbacks for finished copies and for requests that are not copied."""

    def __init__(self, fleet: Fleet, upstream: Upstream) -> None:
        self.running: set[Copy] = set()
        self._fleet = fleet
        self._counts = _Counts()
        self._attempts = Attempts(self._counts, upstream)
        self._random = Random()
        self._stopped = False
        self._policy: Policy | None = None
        self._plans: dict[str, _Plan] = {}
        self._turns: Counter[str] = Counter()
        self._finished: Finished = lambda job: None
        self._left_out: LeftOut = lambda pool, because: None

    def report_to(self, finished: Finished, left_out: LeftOut) -> None:
        """Call ``finished`` after the end of each copy, ``left_out`` with pool and reason for a request without one."""
        self._finished = finished
        self._left_out = left_out

    def use_cards(self, card: Card) -> None:
        """Read the lengths of models from ``card``."""
        self._attempts.card = card

    def stop(self) -> None:
        """End every copy at once and begin no more, because the router drains."""
        self._stopped = True
        for copy in list(self.running):
            copy.stop(NotCopied.DRAINING, "the router is shutting down")

    def offer(self, job: Job, decision: Decision, body: dict[str, Any]) -> None:
        """Copy a request that was just placed if its rule's shadow takes it.

        The copy begins while the request waits for its backend. ``decision`` is the placement of the request, ``body``
        its parsed body.
        """
        rule = decision.rule
        assert rule is not None
        shadow = rule.shadow
        if shadow is None or not shadow.takes(rule.name, job.request_id):
            return
        job.shadow = copy = Copy(shadow.pool)
        features, settings = job.features, job.settings
        assert features is not None
        copy.left_out = not_copied(
            shadow, decision, features.model, settings.policy, stateful=keeps_state(job.inbound.path, body)
        )
        if copy.left_out is None and len(job.inbound.body) > settings.shadow_body_bytes:
            copy.left_out = NotCopied.BODY_SIZE
        if copy.left_out is None and len(self.running) >= settings.shadow_slots:
            copy.left_out = NotCopied.NO_SLOT
        if copy.left_out is None and self._stopped:
            copy.left_out = NotCopied.DRAINING
        if copy.left_out is not None:
            self._left_out(copy.pool, copy.left_out)
            return
        # The task runs when this one waits: by then the request is sent, or its connection is being opened.
        copy.task = asyncio.create_task(self._run(copy, job, rule, body))
        self.running.add(copy)
        copy.task.add_done_callback(lambda _: self.running.discard(copy))

    async def _run(self, copy: Copy, source: Job, rule: Rule, body: dict[str, Any]) -> None:
        copy.began = True
        job = self._job(source)
        del source  # its objects are freed at its own end
        assert job.features is not None
        plan = self._plan(job.settings.policy, rule, copy.pool)
        decision = None if copy.left_out is not None else self._decide(copy, job.features, plan)
        if decision is None or decision.chosen is None:
            self._left_out(copy.pool, copy.left_out or NotCopied.NONE_READY)
            return
        job.decided(decision)
        job.attempts_began = perf_counter()
        self._counts.begin(decision.chosen)
        self._turns[copy.pool] = decision.place + 1
        try:
            answer = await self._attempts.run(job, copy, decision, body)
            job.take_report(answer.report)
            if answer.end is not End.COMPLETE:
                raise end_after(answer, answer if answer.started else None, copy)
            job.complete(answer)
        except RequestEnd as end:
            end.apply(job, copy)
        except asyncio.CancelledError:
            job.outcome = Outcome.CANCELLED
            if not copy.gone:
                raise
        finally:
            if job.outcome is Outcome.CANCELLED:
                job.detail = copy.why
            job.ended = perf_counter()
            self._finished(job)

    def _decide(self, copy: Copy, features: Features, plan: _Plan) -> Decision | None:
        """Choose a backend with a free slot that no waiting request will take; else write the reason into ``copy``."""
        view, line = self._fleet.pools.get(copy.pool), self._fleet.lines.get(copy.pool)
        if view is None or line is None:  # The pool was removed.
            copy.left_out = NotCopied.NONE_READY
            return None
        if len(line.queue) and self._fleet.usable(copy.pool):
            copy.left_out = NotCopied.POOL_FULL
            return None
        seen = shadow_view(view, self._counts.running, self._turns[copy.pool])
        decision = decide_copy(features, seen, plan.policy, perf_counter())
        decision.rule = plan.rule
        if decision.chosen is None:
            full = decision.unroutable is Unroutable.ALL_AT_LIMIT
            copy.left_out = NotCopied.POOL_FULL if full else NotCopied.NONE_READY
        return decision

    def _plan(self, policy: Policy, rule: Rule, pool: str) -> _Plan:
        if policy is not self._policy:
            self._policy = policy
            self._plans.clear()
        plan = self._plans.get(rule.name)
        if plan is None:
            plan = self._plans[rule.name] = _Plan(
                shadow_policy(policy, pool), replace(rule, resume=False, shadow=None)
            )
        return plan

    def _job(self, source: Job) -> Job:
        """Return the copy of a request: its body and its headers for an engine, a new trace, and no client."""
        inbound, features = source.inbound, source.features
        assert features is not None
        headers = [(name, value) for name, value in inbound.headers if name in FOR_THE_ENGINE]
        job = Job(
            inbound=Inbound(inbound.path, inbound.target, headers, inbound.body, time(), perf_counter()),
            settings=source.settings,
            request_id=source.request_id + ID_SUFFIX,
            client_id="",
            session=("", ""),
            trace=continued(None, 0.0, self._random),
            wants_trailers=False,
            reserved_tokens=source.reserved_tokens,
            features=replace(
                features, request_id=source.request_id + ID_SUFFIX, headers=None, user_text=None
            ),
            shadow_of=source.request_id,
        )
        job.set_timeouts(source.settings.policy.timeouts)
        return job


class _Counts:
    """The running copies by backend, in place of the fleet's counts: those decide about requests."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolView] = {}
        self.running: Counter[str] = Counter()

    def begin(self, backend: BackendView) -> None:
        self.running[backend.name] += 1

    def end(self, backend: BackendView, healthy: bool | None, client: str, class_name: str = "") -> None:
        self.running[backend.name] -= 1
        if not self.running[backend.name]:
            del self.running[backend.name]


def keeps_state(path: InferencePath, body: Mapping[str, Any]) -> bool:
    """Return whether the engine would keep the response, or needs an earlier one."""
    return path.stores and (body.get("store") is not False or bool(body.get("previous_response_id")))
