"""The engine's port with vLLM's paths. A plain ASGI application, so that streams stay cheap."""

import asyncio
import contextlib
import re
import time
from typing import Any

import orjson

from engine_simulator.asgi import Scope, header, read_json, reply
from engine_simulator.audio_api import AUDIO_PATHS, read_audio
from engine_simulator.control import Control
from engine_simulator.engine import Engine, Sequence
from engine_simulator.event_streams import new_id
from engine_simulator.faults import Fault, Faults
from engine_simulator.generating import Cut, Receive, Send, answer, send_whole
from engine_simulator.language import decode, encode
from engine_simulator.messages_api import messages_events
from engine_simulator.metrics import EngineMetrics
from engine_simulator.requests import Generation, Refused, read_generation
from engine_simulator.response_store import ResponseStore
from engine_simulator.responses_api import ResponseEvents, responses_events, run
from engine_simulator.single_answers import SINGLE_ANSWERS
from engine_simulator.spans import SpanExporter
from engine_simulator.unsupported import refuse_unsupported

VERSION = "0.32.0"


class SimulatorApp:
    """The ASGI application of the engine's port. Without ``control``, paths under /sim return 404."""

    def __init__(
        self,
        engine: Engine,
        faults: Faults,
        models: list[str],
        control: Control | None,
        *,
        store_responses: bool = False,
        version: str = VERSION,
    ) -> None:
        self.engine = engine
        self.faults = faults
        self.models = models
        self.control = control
        self.responses = ResponseStore(engine, enabled=store_responses)
        self.metrics = EngineMetrics(engine, models[0])
        self.spans: SpanExporter | None = None
        self.started_at = time.time()
        self._gets = {
            "/health": self._health,
            "/ping": self._health,
            "/version": lambda: (200, orjson.dumps({"version": version}), b"application/json"),
            "/load": lambda: (200, orjson.dumps({"server_load": len(engine.running) + len(engine.waiting)}),
                              b"application/json"),
            "/metrics": self._metrics,
            "/v1/models": self._models,
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
                await reply(send, status, body, kind)
            elif path.startswith("/sim/") and self.control is not None:
                await self.control(scope, receive, send)
            elif stored := _STORED.fullmatch(path):
                await self._stored(method, stored["id"], stored["cancel"] is not None, send)
            elif method == "POST":
                await self._post(scope, path, receive, send)
            elif path in _KNOWN_PATHS:
                await reply(send, 405, b'{"detail":"Method Not Allowed"}')
            else:
                await reply(send, 404, b'{"detail":"Not Found"}')
        except Refused as refused:
            told = refused.body()
            if path.startswith("/v1/messages"):  # vLLM translates errors of this API and uses its own types.
                error = told["error"]
                told = {"type": "error", "error": {"type": error["type"], "message": error["message"]}}
            await reply(send, refused.status, orjson.dumps(told))
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
        request_id = header(scope, b"x-request-id")
        audio: Generation | None = None
        body: dict[str, Any]
        if path in AUDIO_PATHS:
            body, audio = await read_audio(scope, path, receive, self.engine)
        else:
            body = await read_json(receive)
        if path in ("/tokenize", "/detokenize"):
            await reply(send, 200, orjson.dumps(self._tokens(path, body)))
            return
        if path not in _KNOWN_PATHS:
            await reply(send, 404, b'{"detail":"Not Found"}')
            return
        self._check_model(body)
        if path in _GENERATION_PATHS:
            refuse_unsupported(body)
        fault = self.faults.for_request()
        if fault is not None and fault.kind == "http_error":
            error = {
                "message": "injected fault",
                "type": "ServiceUnavailable",
                "param": None,
                "code": fault.status,
            }
            await reply(send, fault.status, orjson.dumps({"error": error}))
            return
        if audio is not None or path in ("/v1/chat/completions", "/v1/completions"):
            kind = "chat" if path == "/v1/chat/completions" else "text"
            most = self.engine.capacity.max_model_len
            generation = audio or read_generation(kind, body, request_id, most)  # type: ignore[arg-type]
            traceparent = header(scope, b"traceparent")

            def finished(sequence: Sequence) -> None:
                if self.spans is not None:
                    self.spans.finished(sequence, request_id, traceparent)

            await answer(generation, self.engine, fault, receive, send, request_id, finished)
            return
        if path == "/v1/responses":
            await self._respond(body, fault, receive, send)
            return
        if body.get("stream") is True and path == "/v1/messages":
            await messages_events(body, self.engine, fault, receive, send)
            return
        status, answered = await SINGLE_ANSWERS[path](body, self.engine)
        await send_whole(status, orjson.dumps(answered), fault, [], send)

    async def _respond(self, body: dict[str, Any], fault: Fault | None, receive: Receive, send: Send) -> None:
        """Answer a request for a new response."""
        store = self.responses
        store.check(body)
        if body.get("background"):
            answered = store.begin(body)
        elif body.get("stream") is True:
            await responses_events(body, self.engine, fault, receive, send, store.keep)
            return
        else:
            answered = await run(body, self.engine, ResponseEvents(body))
            store.keep(body, answered)
        await send_whole(200, orjson.dumps(answered), fault, [], send)

    async def _stored(self, method: str, response_id: str, cancel: bool, send: Send) -> None:
        """Return or cancel a stored response."""
        if method != ("POST" if cancel else "GET"):
            await reply(send, 405, b'{"detail":"Method Not Allowed"}')
            return
        found = self.responses.cancel(response_id) if cancel else self.responses.find(response_id)
        await reply(send, 200, orjson.dumps(found))

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
_GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_KNOWN_PATHS = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"),
        *SINGLE_ANSWERS,
        *AUDIO_PATHS,
    }
)
_STORED = re.compile("/v1/responses/(?P<id>[^/]+)(?P<cancel>/cancel)?")
