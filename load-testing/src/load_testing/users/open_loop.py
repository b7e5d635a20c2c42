"""The open-loop user: sends on a schedule that no response can delay, and records the outcomes."""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gevent

from load_testing.measure.arrivals import schedule
from load_testing.measure.outcome import Outcome, RequestRecord
from load_testing.users import prompts
from load_testing.users.client import Client
from load_testing.workloads import Arrival, RequestKind, Workload

LATE_SECONDS = 0.05  # seconds after which a send is late; more than 1 % late sends invalidate a run


@dataclass
class Run:
    """The load of one generator process: its share of a workload's rate, duration and seed."""

    workload: Workload
    rate_per_second: float
    duration_seconds: float
    seed: int
    clients: dict[str, Client]
    on_record: Callable[[RequestRecord], None]
    stopped: Callable[[], bool] = lambda: False
    """Returns whether to stop sending; called before each request."""
    in_flight: int = 0
    planned: int = 0
    """Number of due requests, later turns of sessions included: each must leave a record."""
    _greenlets: list["gevent.Greenlet[..., None]"] = field(default_factory=list)

    def dispatch(self) -> None:
        """Send every request on time until :attr:`stopped`, then wait for the last response."""
        began = time.perf_counter()
        for offset, kind, seed, arrival in self._plan():
            if self.stopped():
                break
            self.planned += 1
            due = began + offset
            pause = due - time.perf_counter()
            gevent.sleep(pause if pause > 0 else 0)
            self._greenlets.append(gevent.spawn(self._session, kind, seed, due, arrival))
            if len(self._greenlets) > 1000:
                self._greenlets = [g for g in self._greenlets if not g.dead]
        gevent.joinall(self._greenlets)

    def _plan(self) -> Iterator[tuple[float, RequestKind, int, Arrival | None]]:
        """Yield (seconds from start, kind, seed of its prompt, recorded request). A whole session is one arrival.

        Recorded requests keep their distances, scaled to the rate.
        """
        draws = random.Random(self.seed)
        speed = self.rate_per_second / self.workload.rate_per_second
        for arrival in self.workload.recorded:
            if arrival.at / speed > self.duration_seconds:
                return
            yield arrival.at / speed, arrival.kind(), draws.getrandbits(48), arrival
        if self.workload.recorded:
            return
        kinds = self.workload.requests
        weights = [kind.weight for kind in kinds]
        turns_per_arrival = sum(k.weight * k.turns for k in kinds) / sum(weights)
        segments = self.workload.segments(self.rate_per_second / turns_per_arrival, self.duration_seconds)
        for offset in schedule(segments, self.workload.arrivals, self.seed):
            yield offset, draws.choices(kinds, weights)[0], draws.getrandbits(48), None

    def _session(self, kind: RequestKind, seed: int, due: float, arrival: Arrival | None) -> None:
        draws = random.Random(f"{seed}{prompts.salt()}")
        messages: list[dict[str, str]] = []
        if kind.shared_prefix_words:
            of = arrival.prefix if arrival is not None else kind.name
            prefix = prompts.shared_prefix(of, draws.randrange(kind.prefixes), kind.shared_prefix_words)
            messages.append({"role": "system", "content": prefix})
        session_id = f"load-{seed:012x}" if kind.turns > 1 else ""
        if arrival is not None:
            session_id = arrival.session
        for turn in itertools.count(1):
            messages.append({"role": "user", "content": prompts.text(draws, kind.prompt_words.draw(draws))})
            answer = self._request(kind, messages, session_id, due)
            if turn == kind.turns or not answer:
                return
            messages.append({"role": "assistant", "content": answer})
            self.planned += 1
            # a later turn is due after the user's time to read and think
            due = time.perf_counter() + kind.think_seconds
            gevent.sleep(kind.think_seconds)

    def _request(self, kind: RequestKind, messages: list[dict[str, str]], session_id: str, due: float) -> str:
        body: dict[str, object] = {
            "model": kind.model,
            "messages": messages,
            "max_tokens": kind.max_tokens,
            "temperature": 0,
            "ignore_eos": True,  # so that exactly max_tokens tokens are expected
            "stream": kind.stream,
        }
        if kind.stream:
            body["stream_options"] = {"include_usage": True}
        record = RequestRecord(
            sent_at=time.time(),
            late_seconds=0.0,  # until it is sent
            workload_request=kind.name,
            model=kind.model,
            streamed=kind.stream,
        )
        self.in_flight += 1
        try:
            text = self.clients[kind.client].send(
                record,
                body,
                expected_tokens=kind.max_tokens,
                headers={"x-session-id": session_id} if session_id else {},
                due=due,
                abort_after_events=kind.abort_after_events,
            )
        finally:
            self.in_flight -= 1
        if record.outcome is Outcome.FAILED_STATUS and record.status in kind.accept_statuses:
            record.outcome = Outcome.REFUSED
        self.on_record(record)
        return text
