"""One request from its body to its end. :meth:`Pipeline.handle` is the only place that ends a request.

Must not know HTTP servers, sockets or how records are displayed.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from random import Random
from time import perf_counter
from typing import Any

from router_service.openai_api.large_body import LARGE_BYTES
from router_service.openai_api.response_ids import previous_id
from router_service.pipeline import ends, output_limit
from router_service.pipeline import headers as fields
from router_service.pipeline.attempt_loop import AttemptLoop
from router_service.pipeline.attempts import Attempts
from router_service.pipeline.dry_run import dry_run
from router_service.pipeline.ends import ClientLeft, End, Refusal, Refused, RequestEnd
from router_service.pipeline.engine_request import forbidden_control
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.inbound import BadBody, Inbound
from router_service.pipeline.job import Job
from router_service.pipeline.output_limit import Card
from router_service.pipeline.placement import Placement
from router_service.pipeline.relay import Relay
from router_service.pipeline.response_homes import SOURCE, ResponseHomes
from router_service.pipeline.sessions import SessionPins
from router_service.pipeline.settings import Settings
from router_service.pipeline.shadows import Shadows
from router_service.pipeline.stored_responses import StoredResponses
from router_service.ports import Upstream
from router_service.routing.decide import search_texts
from router_service.routing.features import Sender, extract_features
from router_service.routing.prompt_reader import Excessive
from router_service.routing.vocabulary import NotCopied, Outcome
from router_service.telemetry.trace_context import continued


class Waits(StrEnum):
    """The event that a running request waits for."""

    START = "start"  # of the first engine of its pool
    BACKEND = "backend"  # in the router's queue, or between two attempts
    CONNECTION = "connection"
    FIRST_TOKEN = "first_token"  # or, for an unstreamed request, the whole answer
    NEXT_TOKEN = "next_token"


class Pipeline:
    """Handles requests. ``finished`` is called once per request, after its end; ``running`` has the others by id.

    ``pins`` has the backends of sessions and of stored responses; None: neither is found again.
    """

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        upstream: Upstream,
        pins: SessionPins | None,
        finished: Callable[[Job], None],
        observe_decide: Callable[[float], None],
        random: Random,
    ) -> None:
        self.settings = settings
        self.running: dict[str, Job] = {}
        self.fleet = fleet
        self._pins = pins
        self._finished = finished
        self._random = random
        self._homes = ResponseHomes(pins) if pins is not None else None
        self._attempts = Attempts(fleet, upstream, self._homes)
        self._stored = StoredResponses(fleet, self._homes, self._attempts)
        self._placement = Placement(fleet, pins, observe_decide)
        self.shadows = Shadows(fleet, upstream)
        self._loop = AttemptLoop(fleet, self._placement, self._attempts, self.shadows)

    def reconfigure(self, settings: Settings) -> None:
        """Use new settings for requests that begin after this call."""
        self.settings = settings

    def use_cards(self, card: Card) -> None:
        """Read the lengths of models from ``card``; before this call none is known."""
        self._attempts.card = card
        self.shadows.use_cards(card)

    async def handle(self, inbound: Inbound, relay: Relay) -> None:
        """Answer one request and report it, whatever happens."""
        job = self.begin(inbound)
        self.running[job.request_id] = job
        self.fleet.budget.enter()
        try:
            if inbound.stored is None:
                if len(inbound.body) >= LARGE_BYTES:
                    body = await self._read_large(job)
                else:
                    body = self._parse(job)
                    self._extract(job, body)
                if inbound.path.stores:
                    await self._find_home(job, body)
                answer = await self._loop.run(job, relay, body)
            else:
                answer = await self._stored.run(job, relay)
        except RequestEnd as end:
            end.apply(job, relay)
        except asyncio.CancelledError:
            job.outcome = job.outcome or Outcome.CANCELLED
            relay.abort()
            raise
        else:
            job.complete(answer)
        finally:
            if job.retrying:
                self._loop.end_retry(job)
            self.fleet.budget.leave()
            if job.shadow is not None and job.outcome is Outcome.CANCELLED:
                job.shadow.stop(NotCopied.CLIENT_LEFT, "the client of the request left")
            self._close(job)

    def refuse_now(self, inbound: Inbound, relay: Relay, refusal: Refusal) -> None:
        """Refuse a request whose body was not read, and record it."""
        self._end_early(inbound, relay, Refused(refusal))

    def cancelled_early(self, inbound: Inbound) -> None:
        """Record a request whose client disconnected while its body was being read."""
        self._end_early(inbound, None, ClientLeft())

    def begin(self, inbound: Inbound) -> Job:
        """Read ids and trace context."""
        by_name = dict(inbound.headers)
        settings = self.settings
        job = Job(
            inbound=inbound,
            settings=settings,
            request_id=fields.request_id(by_name.get(b"x-request-id")),
            client_id=fields.safe_name(by_name.get(b"x-client-id")),
            session=fields.session_of(by_name, settings.sessions.headers),
            trace=continued(by_name.get(b"traceparent"), settings.trace_ratio, self._random),
            wants_trailers=b"trailers" in by_name.get(b"te", b""),
            reserved_tokens=by_name.get(output_limit.HEADER, b""),
            headers=by_name,
        )
        attempt = by_name.get(b"x-envoy-attempt-count", b"1")
        if attempt != b"1":
            job.sent_again(attempt)
        return job

    async def try_decide(self, body: dict[str, Any], path: str, headers: fields.RawHeaders) -> dict[str, Any]:
        """Decide a request without sending it, by the current settings and fleet.

        Raises:
            Excessive: ``body`` exceeds the limits of the prompt reader.
        """
        return await dry_run(self.settings, self.fleet, self._pins, body, path, headers)

    def leave_lost_backends(self) -> None:
        """Retry at once, elsewhere, the requests of backends that were found stuck or unreachable."""
        self._attempts.leave_lost_backends()

    def waits_for(self, job: Job) -> tuple[str, float]:
        """Return what a running request waits for, a value of :class:`Waits`, and for how many seconds."""
        now = perf_counter()
        for answer, (owner, _) in self._attempts.running.items():
            if owner is not job:
                continue
            if answer.first_written_at:
                return Waits.NEXT_TOKEN, now - answer.last_byte_at
            if not answer.clock.sent_at:
                return Waits.CONNECTION, now - job.attempt_began
            return Waits.FIRST_TOKEN, now - answer.clock.sent_at
        return Waits.START if job.holding else Waits.BACKEND, now - job.inbound.received

    def stop_retrying(self) -> None:
        """Make no attempts beyond the running ones, and refuse waiting requests (the end of a graceful shutdown)."""
        self._loop.stop()
        self._placement.stop_waits()

    def abort_all(self, why: str) -> None:
        """End every running response with an error (the end of a graceful shutdown)."""
        for answer in list(self._attempts.running):
            answer.stop(End.TOTAL_TIMEOUT, why)

    async def _read_large(self, job: Job) -> dict[str, Any]:
        """Read a large body in steps, between which other requests run: search, parse, extract, search its texts.

        Raises:
            Refused: the body cannot be routed, or is too costly to parse.
        """
        try:
            await job.inbound.admit_large()
        except BadBody as error:
            raise Refused(ends.bad_body(str(error))) from None
        body = self._parse(job)
        await asyncio.sleep(0)
        self._extract(job, body)
        await asyncio.sleep(0)
        if job.features is not None and len(job.features.user_text or "") >= LARGE_BYTES // 4:
            await asyncio.to_thread(search_texts, job.features, job.settings.policy)
        return body

    @staticmethod
    def _parse(job: Job) -> dict[str, Any]:
        """Return the parsed request body.

        Raises:
            Refused: the body cannot be parsed.
        """
        try:
            return job.inbound.fields()
        except BadBody as error:
            raise Refused(ends.bad_body(str(error))) from None

    @staticmethod
    def _extract(job: Job, body: dict[str, Any]) -> None:
        """Extract the features of the parsed request body.

        Raises:
            Refused: the body cannot be routed.
        """
        settings = job.settings
        try:
            job.features = extract_features(
                body,
                job.inbound.path.path,
                fields.HeaderView(job.headers),
                Sender(job.client_id, job.request_id, *job.session),
                sources=settings.sessions,
                needs=settings.policy.needs,
            )
        except Excessive as error:
            raise Refused(ends.bad_body(str(error))) from None
        if control := forbidden_control(body):
            raise Refused(ends.engine_control(control))
        job.set_timeouts(settings.policy.timeouts)

    async def _find_home(self, job: Job, body: dict[str, Any]) -> None:
        """Let a request that continues a stored response go to the backend that has it."""
        previous = previous_id(body)
        if not previous or self._homes is None:
            return
        job.home = await self._homes.find(job.client_id, previous)
        if job.home is not None and job.features is not None:
            job.features.session, job.features.session_source = job.home.key, SOURCE

    def _end_early(self, inbound: Inbound, relay: Relay | None, end: RequestEnd) -> None:
        job = self.begin(inbound)
        end.apply(job, relay)
        self._close(job)

    def _close(self, job: Job) -> None:
        job.ended = perf_counter()
        if self.running.get(job.request_id) is job:
            del self.running[job.request_id]
        self._finished(job)
