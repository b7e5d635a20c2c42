"""HTTP in: vLLM's paths, and the simulator's own under /sim. A bare ASGI callable, so that streams stay cheap."""

import asyncio
import contextlib
import time
from collections.abc import MutableMapping
from typing import Any, Protocol

import orjson
from pydantic import ValidationError

from engine_simulator.device import Device, dcgm_text
from engine_simulator.engine import Engine, Sequence
from engine_simulator.event_streams import new_id
from engine_simulator.faults import Fault, Faults
from engine_simulator.generating import Cut, Receive, Send, answer
from engine_simulator.language import decode, encode
from engine_simulator.messages_api import messages_events
from engine_simulator.metrics import EngineMetrics
from engine_simulator.requests import Refused, read_generation
from engine_simulator.responses_api import responses_events
from engine_simulator.single_answers import SINGLE_ANSWERS
from engine_simulator.spans import SpanExporter

VERSION = "0.32.0"
Scope = MutableMapping[str, Any]


class Listen(Protocol):
    """Open the listening socket, or close it and every connection but that of the client ``spare``."""

    async def __call__(self, on: bool, spare: tuple[str, int] | None = None) -> None: ...


class SimulatorApp:
    """The ASGI application. ``listen`` opens and closes the listening socket for the fault ``refuse``."""

    def __init__(self, engine: Engine, faults: Faults, device: Device, models: list[str]) -> None:
        self.engine = engine
        self.faults = faults
        self.device = device
        self.models = models
        self.metrics = EngineMetrics(engine, models[0])
        self.listen: Listen | None = None
        self.spans: SpanExporter | None = None
        self.started_at = time.time()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gets = {
            "/health": self._health,
            "/ping": self._health,
            "/version": lambda: (200, orjson.dumps({"version": VERSION}), b"application/json"),
            "/load": lambda: (200, orjson.dumps({"server_load": len(engine.running) + len(engine.waiting)}),
                              b"application/json"),
            "/metrics": self._metrics,
            "/v1/models": self._models,
            "/sim/state": self._state,
            "/sim/dcgm": self._dcgm,
        }  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        try:
            if method == "GET" and path in self._gets:
                status, body, kind = self._gets[path]()
                await _reply(send, status, body, kind)
            elif path == "/sim/faults":
                await self._set_faults(scope, receive, send)
            elif method == "POST":
                await self._post(scope, path, receive, send)
            elif path in _KNOWN_PATHS:
                await _reply(send, 405, b'{"detail":"Method Not Allowed"}')
            else:
                await _reply(send, 404, b'{"detail":"Not Found"}')
        except Refused as refused:
            await _reply(send, refused.status, orjson.dumps(refused.body()))
        except Cut:
            raise
        finally:
            self.metrics.http.labels(path if path in _KNOWN_PATHS else "other", method, "").inc()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        loop_task: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                loop_task = asyncio.create_task(self.engine.run())
                await send({"type": "lifespan.startup.complete"})
            else:
                if loop_task is not None:
                    loop_task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await loop_task
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _post(self, scope: Scope, path: str, receive: Receive, send: Send) -> None:
        body = await _read_json(receive)
        request_id = _header(scope, b"x-request-id")
        if path in ("/tokenize", "/detokenize"):
            await _reply(send, 200, orjson.dumps(self._tokens(path, body)))
            return
        if path not in _KNOWN_PATHS:
            await _reply(send, 404, b'{"detail":"Not Found"}')
            return
        self._check_model(body)
        fault = self.faults.for_request()
        if fault is not None and fault.kind == "http_error":
            error = {
                "message": "injected fault",
                "type": "ServiceUnavailable",
                "param": None,
                "code": fault.status,
            }
            await _reply(send, fault.status, orjson.dumps({"error": error}))
            return
        if path in ("/v1/chat/completions", "/v1/completions"):
            kind = "chat" if path == "/v1/chat/completions" else "text"
            generation = read_generation(kind, body, request_id, self.engine.capacity.max_model_len)  # type: ignore[arg-type]
            traceparent = _header(scope, b"traceparent")

            def finished(sequence: Sequence) -> None:
                if self.spans is not None:
                    self.spans.finished(sequence, request_id, traceparent)

            await answer(generation, self.engine, fault, receive, send, request_id, finished)
            return
        if body.get("stream") is True and path in ("/v1/responses", "/v1/messages"):
            events = responses_events if path == "/v1/responses" else messages_events
            await events(body, self.engine, receive, send)
            return
        status, answered = await SINGLE_ANSWERS[path](body, self.engine)
        await _reply(send, status, orjson.dumps(answered))

    def _check_model(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if model is not None and model not in self.models:
            raise Refused(404, f"The model `{model}` does not exist.", "model")

    def _tokens(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/detokenize":
            return {"prompt": decode([t for t in body.get("tokens", []) if type(t) is int])}
        if "messages" in body:
            ids = read_generation(
                "chat", {**body, "max_tokens": 1}, "", self.engine.capacity.max_model_len
            ).prompt_ids
        else:
            ids = encode(str(body.get("prompt", "")))
        return {
            "count": len(ids),
            "max_model_len": self.engine.capacity.max_model_len,
            "tokens": ids,
            "token_strs": None,
        }

    async def _set_faults(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "DELETE":
            self.faults.clear(scope["query_string"].decode().removeprefix("kind=") or None)
        elif scope["method"] == "POST":
            try:
                fault = Fault.model_validate(await _read_json(receive))
            except ValidationError as error:
                said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise Refused(400, f"not a fault: {said}") from error
            if fault.kind == "refuse":
                assert self.listen is not None
                # Before the answer, so that whoever set the fault can count on it.
                await self.listen(False, spare=scope["client"])
                self._later(self._listen_again(fault.seconds))
            else:
                self.faults.set(fault)
        else:
            await _reply(send, 405, b'{"detail":"Method Not Allowed"}')
            return
        await _reply(send, 200, self._state()[1])

    async def _listen_again(self, seconds: float) -> None:
        assert self.listen is not None
        await asyncio.sleep(seconds)
        await self.listen(True)

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _health(self) -> tuple[int, bytes, bytes]:
        lies = self.faults.on("health_lies")
        return (503 if lies else 200), b"", b""

    def _metrics(self) -> tuple[int, bytes, bytes]:
        return 200, self.metrics.text(), b"text/plain; version=0.0.4; charset=utf-8"

    def _models(self) -> tuple[int, bytes, bytes]:
        created = int(self.started_at)
        data: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": self.models[0],
                "parent": None,
                "max_model_len": self.engine.capacity.max_model_len,
                "permission": [{**_PERMISSION, "id": new_id("modelperm-"), "created": created}],
            }
            for name in self.models
        ]
        return 200, orjson.dumps({"object": "list", "data": data}), b"application/json"

    def _state(self) -> tuple[int, bytes, bytes]:
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
        return 200, orjson.dumps(state), b"application/json"

    def _dcgm(self) -> tuple[int, bytes, bytes]:
        reading = self.device.reading()
        return 200, dcgm_text([reading] if reading else []), b"text/plain; version=0.0.4; charset=utf-8"


_PERMISSION = {
    "object": "model_permission",
    "allow_create_engine": False,
    "allow_sampling": True,
    "allow_logprobs": True,
    "allow_search_indices": False,
    "allow_view": True,
    "allow_fine_tuning": False,
    "organization": "*",
    "group": None,
    "is_blocking": False,
}
_KNOWN_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", *SINGLE_ANSWERS}
)


async def _read_json(receive: Receive) -> dict[str, Any]:
    data = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cut
        data += message.get("body", b"")
        if not message.get("more_body"):
            break
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"JSON decode error: {error}", "body", "Bad Request") from error
    if not isinstance(body, dict):
        raise Refused(400, "the body is not a JSON object")
    return body


def _header(scope: Scope, name: bytes) -> str:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return ""


async def _reply(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    if kind:
        headers.append((b"content-type", kind))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
