"""The engine: a queue, running sequences, a KV cache with prefixes, and steps that take time.

One step gives every running sequence a token, as in vLLM. It knows tokens and time, not HTTP.
"""

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from engine_simulator.faults import Faults
from engine_simulator.language import EOS_ID, Continuation

BLOCK_TOKENS = 16


@dataclass(frozen=True)
class Timing:
    """Durations in seconds."""

    prefill_seconds_per_token: float = 0.0005
    step_seconds: float = 0.02
    step_seconds_per_sequence: float = 0.0005
    jitter: float = 0.05


@dataclass(frozen=True)
class Capacity:
    """Limits of concurrent sequences and of the KV cache."""

    max_num_seqs: int = 256
    max_model_len: int = 2048
    kv_tokens: int = 200_000


@dataclass(eq=False)
class Sequence:
    """One request in the engine. ``emit(text, token_id, finish_reason)`` is called with every token."""

    prompt_ids: list[int]
    continuation: Continuation
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    emit: Callable[[str, int, str | None], None]
    arrived_at: float = field(default_factory=time.monotonic)
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    generated: int = 0
    cached_tokens: int = 0
    thinking_tokens: int = 0
    finished: str | None = None

    @property
    def kv_tokens(self) -> int:
        return len(self.prompt_ids) + self.generated

    @property
    def created_cache_tokens(self) -> int:
        """Prompt tokens that this request wrote to the prefix cache, in whole blocks."""
        whole = len(self.prompt_ids) - len(self.prompt_ids) % BLOCK_TOKENS
        return max(0, whole - self.cached_tokens)

    def metrics_ms(self) -> dict[str, float | None]:
        """Return the engine's timing of this request, as ``--enable-per-request-metrics`` reports it."""
        first, last, scheduled = self.first_token_at, self.last_token_at, self.scheduled_at
        if first is None or last is None or scheduled is None:
            return {}
        decode = (last - first) * 1000
        gaps = self.generated - 1
        return {
            "time_to_first_token_ms": round((first - scheduled) * 1000, 3),
            "generation_time_ms": round(decode, 3),
            "queue_time_ms": round((scheduled - self.arrived_at) * 1000, 3),
            "mean_itl_ms": round(decode / gaps, 3) if gaps > 0 else 0.0,
            "tokens_per_second": round(gaps / (last - first), 3) if gaps > 0 and last > first else None,
        }


@dataclass
class Counts:
    """Totals since the start, counted as in vLLM."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    steps: int = 0
    finished: dict[str, int] = field(default_factory=dict)


class Engine:
    """Runs sequences until they finish or are aborted."""

    def __init__(self, timing: Timing, capacity: Capacity, faults: Faults, seed: int) -> None:
        self.timing = timing
        self.capacity = capacity
        self.counts = Counts()
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.on_finished: Callable[[Sequence], None] = lambda sequence: None
        self.busy_seconds = 0.0
        self._faults = faults
        self._random = random.Random(seed)
        self._work = asyncio.Event()
        self._prefixes: OrderedDict[bytes, None] = OrderedDict()
        self._prefilling = False
        self._left: list[Sequence] = []

    @property
    def kv_limit(self) -> int:
        """Number of tokens that the KV cache can have."""
        full = self._faults.active.get("kv_full")
        return int(self.capacity.kv_tokens * full.factor) if full is not None else self.capacity.kv_tokens

    @property
    def kv_used(self) -> int:
        """Number of tokens of running sequences in the KV cache."""
        return sum(sequence.kv_tokens for sequence in self.running)

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache in use."""
        return min(self.kv_used / max(self.kv_limit, 1), 1.0)

    @property
    def wedged(self) -> bool:
        """True if no step runs although there may be work."""
        return "wedge" in self._faults.active

    @property
    def busy(self) -> bool:
        """True if the device is working: a sequence can run and no fault stops it."""
        return bool(self.running or self._prefilling) and not self.wedged

    def submit(self, sequence: Sequence) -> None:
        """Add a sequence to the queue."""
        self.waiting.append(sequence)
        self._work.set()

    def abort(self, sequence: Sequence) -> None:
        """Drop a sequence whose client disconnected, whatever its state."""
        if sequence.finished is not None:
            return
        if self.wedged:  # A wedged engine does not process aborts either and keeps the request.
            self._left.append(sequence)
            return
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self._finish(sequence, "abort")

    def _drop_those_who_left(self) -> None:
        while self._left:
            self.abort(self._left.pop())

    async def run(self) -> None:
        """Run steps until cancelled."""
        due = time.monotonic()
        while True:
            if not self.running and not self.waiting:
                self._work.clear()
                await self._work.wait()
                due = time.monotonic()
            if self.wedged:
                self._faults.on("wedge")
                await asyncio.sleep(0.05)
                due = time.monotonic()
                continue
            self._drop_those_who_left()
            seconds = self._schedule()
            seconds += self.timing.step_seconds + self.timing.step_seconds_per_sequence * len(self.running)
            for fault in (self._faults.on("slow"), self._faults.on("throttled")):
                if fault is not None:
                    seconds *= fault.factor
            seconds *= 1 + self._random.uniform(-self.timing.jitter, self.timing.jitter)
            self._prefilling = True
            # Steps follow a fixed schedule: a delay of this process in one step shortens the next.
            due = max(due + seconds, time.monotonic())
            await asyncio.sleep(max(due - time.monotonic(), 0))
            self._prefilling = False
            self.busy_seconds += seconds
            while self.wedged:
                self._faults.on("wedge")
                await asyncio.sleep(0.05)
                due = time.monotonic()
            self._drop_those_who_left()
            self._step()

    def _schedule(self) -> float:
        """Start waiting sequences while they fit; return the seconds of their prefill."""
        seconds = 0.0
        now = time.monotonic()
        used = self.kv_used
        while self.waiting and len(self.running) < self.capacity.max_num_seqs:
            sequence = self.waiting[0]
            if self.running and used + sequence.kv_tokens + BLOCK_TOKENS > self.kv_limit:
                break
            self.waiting.popleft()
            if sequence.scheduled_at is None:
                sequence.scheduled_at = now
            sequence.cached_tokens = self._look_up_prefix(sequence.prompt_ids)
            fresh = len(sequence.prompt_ids) + sequence.generated - sequence.cached_tokens
            seconds += fresh * self.timing.prefill_seconds_per_token
            fault = self._faults.on("long_prefill")
            if fault is not None:
                seconds += fault.seconds
            used += sequence.kv_tokens
            self.running.append(sequence)
        return seconds

    def _step(self) -> None:
        self.counts.steps += 1
        now = time.monotonic()
        while len(self.running) > 1 and self.kv_used > self.kv_limit:
            sequence = self.running.pop()
            self.counts.preemptions += 1
            self.waiting.appendleft(sequence)
        for sequence in list(self.running):
            may_end = not sequence.ignore_eos and sequence.generated >= sequence.min_tokens
            token, text = sequence.continuation.next(may_end)
            if sequence.first_token_at is None:
                sequence.first_token_at = now
                self.counts.prompt_tokens += len(sequence.prompt_ids)
            sequence.last_token_at = now
            if token != EOS_ID:
                sequence.generated += 1
                self.counts.generation_tokens += 1
            finish = None
            if token == EOS_ID:
                finish = "stop"
            elif sequence.generated >= sequence.max_tokens:
                finish = "length"
            sequence.emit(text, token, finish)
            if finish is not None and sequence.finished is None:
                self.running.remove(sequence)
                self._finish(sequence, finish)

    def stop(self, sequence: Sequence) -> None:
        """End a sequence whose text has a stop sequence."""
        if sequence in self.running:
            self.running.remove(sequence)
        self._finish(sequence, "stop")

    def _finish(self, sequence: Sequence, reason: str) -> None:
        if sequence.finished is None:
            sequence.finished = reason
            self.counts.finished[reason] = self.counts.finished.get(reason, 0) + 1
            self.on_finished(sequence)

    def _look_up_prefix(self, ids: list[int]) -> int:
        """Return how many leading tokens are cached, and cache the rest, in whole blocks."""
        digest = blake2b(digest_size=16)
        hits = 0
        missed = False
        limit = max(self.capacity.kv_tokens // BLOCK_TOKENS, 1)
        whole = len(ids) - len(ids) % BLOCK_TOKENS
        for start in range(0, whole, BLOCK_TOKENS):
            digest.update(repr(ids[start : start + BLOCK_TOKENS]).encode())
            key = digest.digest()
            if key in self._prefixes and not missed:
                hits += BLOCK_TOKENS
                self._prefixes.move_to_end(key)
            else:
                missed = True
                self._prefixes[key] = None
                if len(self._prefixes) > limit:
                    self._prefixes.popitem(last=False)
        self.counts.prefix_queries += len(ids)
        hits = min(hits, len(ids) - 1)
        self.counts.prefix_hits += hits
        return hits
