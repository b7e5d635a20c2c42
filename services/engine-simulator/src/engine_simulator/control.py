"""The simulator's own paths under /sim: its state, its GPU with DCGM's metric names, and its faults."""

import asyncio
from typing import Protocol

import orjson
from pydantic import ValidationError

from engine_simulator.asgi import Scope, read_json, reply
from engine_simulator.device import Device, dcgm_text
from engine_simulator.engine import Engine
from engine_simulator.faults import Fault, Faults
from engine_simulator.generating import Receive, Send
from engine_simulator.requests import Refused


class Listen(Protocol):
    """Opens the engine's port, or closes it and every connection except that of the client ``spare``."""

    async def __call__(self, on: bool, spare: tuple[str, int] | None = None) -> None: ...


class Control:
    """The ASGI application of the control port. For ``refuse``, ``listen`` opens and closes the engine's port."""

    def __init__(self, engine: Engine, faults: Faults, device: Device) -> None:
        self.engine = engine
        self.faults = faults
        self.device = device
        self.listen: Listen | None = None
        self._refusing: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        try:
            if path == "/sim/faults":
                await self._set_faults(scope, receive, send)
            elif path == "/sim/state" and method == "GET":
                await reply(send, 200, self._state())
            elif path == "/sim/dcgm" and method == "GET":
                reading = self.device.reading()
                page = dcgm_text([reading] if reading else [])
                await reply(send, 200, page, b"text/plain; version=0.0.4; charset=utf-8")
            else:
                await reply(send, 404, b'{"detail":"Not Found"}')
        except Refused as refused:
            await reply(send, refused.status, orjson.dumps(refused.body()))

    async def _set_faults(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "DELETE":
            kind = scope["query_string"].decode().removeprefix("kind=") or None
            self.faults.clear(kind)
            if kind in (None, "refuse"):
                await self._stop_refusing()
        elif scope["method"] == "POST":
            try:
                fault = Fault.model_validate(await read_json(receive))
            except ValidationError as error:
                found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise Refused(400, f"not a fault: {found}") from error
            if fault.kind == "refuse":
                await self._refuse(fault.seconds, scope["client"])
            else:
                self.faults.set(fault)
        else:
            await reply(send, 405, b'{"detail":"Method Not Allowed"}')
            return
        await reply(send, 200, self._state())

    async def _refuse(self, seconds: float, spare: tuple[str, int]) -> None:
        """Close the port before responding, so that the fault is active when the caller continues."""
        assert self.listen is not None
        await self._stop_refusing()
        await self.listen(False, spare=spare)
        self._refusing = asyncio.get_running_loop().create_task(self._listen_after(seconds))

    async def _listen_after(self, seconds: float) -> None:
        assert self.listen is not None
        await asyncio.sleep(seconds)
        await self.listen(True)

    async def _stop_refusing(self) -> None:
        if self._refusing is None:
            return
        refusing, self._refusing = self._refusing, None
        if not refusing.done():
            assert self.listen is not None
            refusing.cancel()
            await self.listen(True)

    def _state(self) -> bytes:
        engine, counts = self.engine, self.engine.counts
        state = {
            "running": len(engine.running),
            "waiting": len(engine.waiting),
            "kv_usage": engine.kv_usage,
            "prompt_tokens": counts.prompt_tokens,
            "generation_tokens": counts.generation_tokens,
            "preemptions": counts.preemptions,
            "prefix_queries": counts.prefix_queries,
            "prefix_hits": counts.prefix_hits,
            "steps": counts.steps,
            "finished": counts.finished,
            "faults": {kind: fault.model_dump() for kind, fault in self.faults.active.items()},
            "fault_hits": self.faults.hits,
            "device": self.device.reading(),
        }
        return orjson.dumps(state)
