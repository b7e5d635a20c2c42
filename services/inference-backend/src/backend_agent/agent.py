"""Watches one engine: waits for it, warms it, judges it. Knows no rule, no other backend and no client."""

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

import httpx
import structlog

from backend_agent.engine_metrics import read_sample
from backend_agent.judgement import READY_STATES, Limits, Sample, State, Verdict, judge
from backend_agent.model_file import ModelFile
from backend_agent.telemetry import Metrics
from backend_agent.warm_up import Round, WarmUpFailed, warm_up

SAMPLE_SECONDS = 1.0
ASK_SECONDS = 2.0
KEPT_SAMPLES = 300
RETRY_SECONDS = 2.0


class Agent:
    """One engine's agent. :meth:`run` is its only task; everything else only reads."""

    def __init__(
        self, name: str, engine_url: str, model: ModelFile, metrics: Metrics, limits: Limits | None = None
    ) -> None:
        self._name = name
        self._engine_url = engine_url
        self._model = model
        self._metrics = metrics
        self._limits = limits or Limits()
        self._samples: deque[Sample] = deque(maxlen=KEPT_SAMPLES)
        self._rounds: list[Round] = []
        self._warm = False
        self._draining = False
        self._log = structlog.get_logger().bind(backend=name)
        self._verdict = Verdict(State.STARTING, ("the engine has not answered yet",))
        self._metrics.show_state(self._verdict.state)

    @property
    def verdict(self) -> Verdict:
        """What the engine is doing now, and from what that was concluded."""
        return self._verdict

    @property
    def ready(self) -> bool:
        """Whether requests may be sent: warm, not draining, and nothing known to be wrong."""
        return self._warm and self._verdict.state in READY_STATES

    def drain(self) -> None:
        """Turn not ready for good; running generations go on."""
        self._draining = True
        self._conclude(Verdict(State.DRAINING, ("asked to drain",)))

    def status(self) -> dict[str, Any]:
        """Return what /status and /readyz answer."""
        last = self._samples[-1] if self._samples else None
        engine: dict[str, Any] = {"model": self._model.name, "served_names": self._model.served_names}
        if last is not None and last.reachable:
            engine |= {
                "running": last.running,
                "waiting": last.waiting,
                "kv_usage": last.kv_usage,
                "prompt_tokens": last.prompt_tokens,
                "generated_tokens": last.generated_tokens,
            }
        engine["warm_up"] = [
            {"first_token_seconds": round(one.first_token_seconds, 4), "tokens": one.tokens}
            for one in self._rounds
        ]
        return {
            "backend": self._name,
            "state": self._verdict.state.value,
            "evidence": list(self._verdict.evidence),
            "engine": engine,
            "gpu": {},
        }

    async def run(self) -> None:
        """Watch until cancelled. An engine that went away and came back is cold again and is warmed again."""
        async with httpx.AsyncClient(trust_env=False, timeout=ASK_SECONDS) as http:
            while True:
                await self._wait_for_engine(http)
                await self._warm_engine(http)
                await self._watch(http)

    async def _wait_for_engine(self, http: httpx.AsyncClient) -> None:
        self._conclude(Verdict(State.STARTING, ("the engine does not answer /health yet",)))
        while not await self._is_up(http):  # noqa: ASYNC110 (another process: there is no event to wait for)
            await asyncio.sleep(SAMPLE_SECONDS / 4)

    async def _is_up(self, http: httpx.AsyncClient) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await http.get(f"{self._engine_url}/health")).status_code == 200
        return False

    async def _warm_engine(self, http: httpx.AsyncClient) -> None:
        began = time.monotonic()
        while not self._warm:
            self._conclude(Verdict(State.WARMING, (f"warming for {time.monotonic() - began:.0f} s",)))
            try:
                self._rounds = await warm_up(http, self._engine_url, self._model.name, self._model.warm_up)
            except WarmUpFailed as error:
                self._conclude(Verdict(State.WARMING, (f"warm-up failed: {error}",)))
                self._log.warning("warm-up failed", reason=str(error))
                if not await self._is_up(http):
                    return
                await asyncio.sleep(RETRY_SECONDS)
                continue
            seconds = time.monotonic() - began
            self._metrics.warmup_seconds.set(seconds)
            self._warm = True
            self._log.info("engine is warm", seconds=round(seconds, 3), rounds=len(self._rounds))
        self._samples.clear()
        self._samples.append(await self._sample(http))
        self._conclude(judge(self._samples, self._limits))

    async def _watch(self, http: httpx.AsyncClient) -> None:
        while self._warm:
            await asyncio.sleep(SAMPLE_SECONDS)
            self._samples.append(await self._sample(http))
            self._conclude(judge(self._samples, self._limits))
            if self._verdict.state is State.UNREACHABLE:
                self._warm = False

    async def _sample(self, http: httpx.AsyncClient) -> Sample:
        now = time.monotonic()
        try:
            answer = await http.get(f"{self._engine_url}/metrics")
        except httpx.ConnectError:
            self._warm = False  # nobody listens: whoever listens next is another, cold engine
            return Sample(now, reachable=False)
        except httpx.HTTPError:
            return Sample(now, reachable=False)
        if answer.status_code != 200:
            return Sample(now, reachable=False)
        try:
            return read_sample(answer.text, now)
        except ValueError:
            return Sample(now, reachable=True)

    def _conclude(self, verdict: Verdict) -> None:
        if self._draining:
            verdict = Verdict(State.DRAINING, ("asked to drain",))
        if verdict.state is not self._verdict.state:
            self._log.info("state", state=verdict.state.value, evidence=list(verdict.evidence))
            self._metrics.show_state(verdict.state)
        self._verdict = verdict
