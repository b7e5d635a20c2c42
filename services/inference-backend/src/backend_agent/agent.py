"""Watches one engine: waits for it, warms it up, judges its state. Must not know rules, other backends or
clients.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import httpx
import structlog

from backend_agent.busy_baseline import Learner, Reading
from backend_agent.devices import Device, NoDevice
from backend_agent.engine_command import stores_responses
from backend_agent.engine_metrics import read_sample
from backend_agent.judgement import READY_STATES, Limits, Sample, State, Verdict, judge, tokens
from backend_agent.model_file import ModelFile
from backend_agent.start_phases import StartPhase, StartPhases
from backend_agent.telemetry import EngineStart, Metrics
from backend_agent.warm_up import Round, WarmUpFailed, warm_up

SAMPLE_SECONDS = 1.0
ASK_SECONDS = 2.0
KEPT_SAMPLES = 300
RETRY_SECONDS = 2.0
RESTART_AFTER_SECONDS = 60.0
RATE_SECONDS = 10.0
LEARN_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class WatchedEngine:
    """One engine: the backend's name, its address without a slash at the end, and its container image."""

    name: str
    url: str
    image: str = ""


class Agent:
    """The agent of one engine. :meth:`run` is its only task; all other methods only read."""

    def __init__(
        self,
        engine: WatchedEngine,
        model: ModelFile,
        metrics: Metrics,
        *,
        device: Device | None = None,
        limits: Limits | None = None,
        restart_after_seconds: float = RESTART_AFTER_SECONDS,
        weights_seconds: float | None = None,
    ) -> None:
        """Args:
        restart_after_seconds: how long the engine may be stuck or silent before liveness fails.
        weights_seconds: how long the weights took to load onto the node, if that is known."""
        self._engine = engine
        self._model = model
        self._stores_responses = stores_responses(model)
        self._metrics = metrics
        self._device = device or NoDevice()
        self._limits = limits or Limits()
        self._restart_after_seconds = restart_after_seconds
        self._learner = Learner()
        self._reading: Reading | None = None
        self._began = time.time()
        self._version = ""
        self._start = EngineStart.AGENT_STARTED
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self._rounds: list[Round] = []
        self._phases = StartPhases(weights_seconds)
        self._warm = False
        self._draining = False
        self._ended: float | None = None
        """Time at which a warm engine was lost; None while an engine is warm."""
        self._log = structlog.get_logger().bind(backend=engine.name)
        self._verdict = Verdict(State.STARTING, ("the engine has not answered yet",))
        self._since = time.monotonic()
        self._metrics.show_state(self._verdict.state)

    @property
    def verdict(self) -> Verdict:
        """State of the engine, with the evidence for it."""
        return self._verdict

    @property
    def ready(self) -> bool:
        """Whether the engine accepts requests: it is warm, not draining, and has no known fault."""
        return self._warm and self._verdict.state in READY_STATES

    @property
    def tag(self) -> str:
        """Weak entity tag of what routers read in the status: the state and the length of the engine's queue."""
        last = self._samples[-1] if self._samples else None
        waiting = last.waiting if last is not None and last.reachable else None
        return f'W/"{self._verdict.state.value}-{"" if waiting is None else format(waiting, "g")}"'

    @property
    def worth_restarting(self) -> bool:
        """Return whether the engine has been stuck, or silent after it had been ready, for the limit.

        Never True for a saturated engine or for an engine whose process ended: its restart is already under
        way, and it may be loading its model.
        """
        hopeless = self._verdict.state in (State.STUCK, State.UNREACHABLE) and self._ended is None
        return hopeless and time.monotonic() - self._since >= self._restart_after_seconds

    def drain(self) -> None:
        """Become not ready permanently; running generations continue."""
        self._draining = True
        self._conclude(Verdict(State.DRAINING, ("a drain was requested",)))

    def status(self) -> dict[str, Any]:
        """Return the body of /status and /readyz."""
        last = self._samples[-1] if self._samples else None
        baseline = self._learner.baseline()
        engine: dict[str, Any] = {
            "model": self._model.name,
            "served_names": self._model.served_names,
            "max_num_seqs": self._model.engine.max_num_seqs,
            "stores_responses": self._stores_responses,
            "version": self._version,
            "watched_seconds": round(time.time() - self._began, 1),
        }
        if last is not None and last.reachable:
            engine |= {
                "running": last.running,
                "waiting": last.waiting,
                "kv_usage": last.kv_usage,
                "prompt_tokens": last.prompt_tokens,
                "generated_tokens": last.generated_tokens,
                **self._rates(),
            }
        engine["warm_up"] = [
            {"first_token_seconds": round(one.first_token_seconds, 4), "tokens": one.tokens}
            for one in self._rounds
        ]
        return {
            "backend": self._engine.name,
            "state": self._verdict.state.value,
            "evidence": list(self._verdict.evidence),
            "engine": engine,
            "start": self._phases.status(),
            "start_seconds": self._phases.total,
            "gpu": {} if self._reading is None else _figures(self._reading),
            "baseline": {"busy": dict(baseline.busy), "idle": dict(baseline.idle)},
        }

    def _rates(self) -> dict[str, float]:
        """Return tokens per second over the last ten seconds of samples."""
        known = [one for one in self._samples if one.reachable and tokens(one) is not None]
        known = [one for one in known if one.at_seconds >= known[-1].at_seconds - RATE_SECONDS]
        if len(known) < 2:
            return {}
        first, last = known[0], known[-1]
        seconds = last.at_seconds - first.at_seconds
        return {
            "prompt_tokens_per_second": round(
                ((last.prompt_tokens or 0) - (first.prompt_tokens or 0)) / seconds, 2
            ),
            "generated_tokens_per_second": round(
                ((last.generated_tokens or 0) - (first.generated_tokens or 0)) / seconds, 2
            ),
        }

    async def run(self) -> None:
        """Watch until cancelled. An engine that restarted is cold and gets another warm-up."""
        async with httpx.AsyncClient(trust_env=False, timeout=ASK_SECONDS) as http:
            while True:
                await self._wait_for_engine(http)
                await self._warm_engine(http)
                await self._watch(http)

    async def _wait_for_engine(self, http: httpx.AsyncClient) -> None:
        """Wait until the engine answers. Before its first answer its state is starting. An engine that served
        and then ended is not starting, so that a crash stays visible however often it is restarted.
        """
        starting = Verdict(State.STARTING, ("the engine does not answer /health yet",))
        self._phases.begin(StartPhase.LOAD, time.monotonic())
        seen = False
        while not await self._is_up(http):
            seen = True
            lost = Verdict(
                State.UNREACHABLE, (f"it was lost {self._ended_seconds():.0f} s ago and does not answer",)
            )
            self._conclude(starting if self._ended is None else lost)
            await asyncio.sleep(SAMPLE_SECONDS / 4)
        self._phases.end(time.monotonic(), seen=seen)

    def _lose(self, reason: EngineStart) -> None:
        self._warm, self._ended, self._start = False, time.monotonic(), reason

    def _found(self, version: str) -> None:
        """Report an engine that answers again, or for the first time."""
        self._metrics.count_start(self._start)
        self._log.info("change", kind="engine_start", reason=self._start.value, version=version)
        if self._version and version != self._version:
            self._log.info("change", kind="engine_version", before=self._version, after=version)
        self._version = version
        self._metrics.show_engine(version, self._model.name, self._model.digest, self._engine.image)

    def _ended_seconds(self) -> float:
        return 0.0 if self._ended is None else time.monotonic() - self._ended

    async def _is_up(self, http: httpx.AsyncClient) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await http.get(f"{self._engine.url}/health")).status_code == 200
        return False

    async def _warm_engine(self, http: httpx.AsyncClient) -> None:
        began = time.monotonic()
        self._found(await self._ask_version(http))
        self._phases.begin(StartPhase.WARM_UP, began)
        while not self._warm:
            self._conclude(Verdict(State.WARMING, (f"warming for {time.monotonic() - began:.0f} s",)))
            try:
                async with _background(self._learn_at_work()):
                    self._rounds = await warm_up(
                        http,
                        self._engine.url,
                        self._model.name,
                        self._model.warm_up,
                        self._model.engine.max_model_len,
                    )
            except WarmUpFailed as error:
                self._conclude(Verdict(State.WARMING, (f"warm-up failed: {error}",)))
                self._log.warning("warm-up failed", reason=str(error))
                if not await self._is_up(http):
                    return
                await asyncio.sleep(RETRY_SECONDS)
                continue
            seconds = time.monotonic() - began
            self._metrics.warmup_seconds.set(seconds)
            self._metrics.show_rounds(self._rounds)
            self._phases.end(time.monotonic())
            self._metrics.show_start(self._phases.seconds)
            self._warm = True
            self._ended = None
            self._log.info(
                "engine is warm",
                seconds=round(seconds, 3),
                rounds=len(self._rounds),
                start=self._phases.status()["seconds"],
            )
        self._samples.clear()
        self._samples.append(await self._sample(http))
        self._conclude(judge(self._samples, self._limits, self._learner.baseline()))

    async def _ask_version(self, http: httpx.AsyncClient) -> str:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            return str((await http.get(f"{self._engine.url}/version")).json()["version"])
        return ""

    async def _learn_at_work(self) -> None:
        """Warm up the engine. The device readings during the warm-up are the first ones known to be from work."""
        while True:
            await asyncio.sleep(LEARN_SECONDS)
            reading = await asyncio.to_thread(self._device.read)
            if reading is not None:
                self._learner.learn(reading, at_work=True)

    async def _watch(self, http: httpx.AsyncClient) -> None:
        while self._warm:
            await asyncio.sleep(SAMPLE_SECONDS)
            self._samples.append(await self._sample(http))
            self._learn()
            self._conclude(judge(self._samples, self._limits, self._learner.baseline()))
            if self._verdict.state is State.UNREACHABLE:
                # Liveness needs the duration of the silence: wait here until the engine answers, then warm it up again.
                await self._wait_out_silence(http)
                self._lose(EngineStart.WAS_SILENT)

    async def _wait_out_silence(self, http: httpx.AsyncClient) -> None:
        began = time.monotonic() - self._limits.unreachable_seconds
        while True:
            try:
                answer = await http.get(f"{self._engine.url}/health")
                if answer.status_code == 200:
                    return
            except httpx.ConnectError:
                return  # The process ended and may be restarting; that is not silence.
            except httpx.HTTPError:
                pass
            silent_seconds = time.monotonic() - began
            self._conclude(Verdict(State.UNREACHABLE, (f"no answer for {silent_seconds:.0f} s",)))
            await asyncio.sleep(SAMPLE_SECONDS / 4)

    def _learn(self) -> None:
        """Learn from a reading only if its state is certain: tokens were generated, or no request ran."""
        if len(self._samples) < 2:
            return
        before, now = self._samples[-2], self._samples[-1]
        if now.device is None or tokens(before) is None or tokens(now) is None:
            return
        asked = [bool(one.running) for one in (before, now)]
        moved = tokens(now) != tokens(before)
        if all(asked) and moved:
            self._learner.learn(now.device, at_work=True)
        elif not any(asked) and not moved:
            self._learner.learn(now.device, at_work=False)

    async def _sample(self, http: httpx.AsyncClient) -> Sample:
        self._reading = await asyncio.to_thread(self._device.read)
        self._metrics.show_device(self._reading)
        now = time.monotonic()
        try:
            answer = await http.get(f"{self._engine.url}/metrics")
        except httpx.ConnectError:
            self._lose(
                EngineStart.PROCESS_ENDED
            )  # Nothing listens on the port; the next listener is a different, cold engine.
            return Sample(now, reachable=False)
        except httpx.HTTPError:
            return Sample(now, reachable=False)
        if answer.status_code != 200:
            return Sample(now, reachable=False)
        try:
            return dataclasses.replace(read_sample(answer.text, now), device=self._reading)
        except ValueError:
            return Sample(now, reachable=True)

    def _conclude(self, verdict: Verdict) -> None:
        if self._draining:
            verdict = Verdict(State.DRAINING, ("a drain was requested",))
        if verdict.state is not self._verdict.state:
            self._since = time.monotonic()
            self._log.info("state", state=verdict.state.value, evidence=list(verdict.evidence))
            self._metrics.show_state(verdict.state)
        self._verdict = verdict


@contextlib.asynccontextmanager
async def _background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _figures(reading: Reading) -> dict[str, Any]:
    """The device's readings, without absent figures."""
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in dataclasses.asdict(reading).items()
        if value is not None
    }
