"""Probes, models, metrics and debug pages: small answers about the router itself; never an inference."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from router_service.openai_api.errors import error_body
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.headers import request_id
from router_service.pipeline.pipeline import Pipeline
from router_service.records.ring import Ring
from router_service.routing.features import TooDeep
from router_service.routing.policy import ANY_MODEL
from router_service.routing.vocabulary import Outcome

MAX_LISTED = 1000


@dataclass(slots=True)
class Readiness:
    """Whether the router may be sent requests, kept ready-made so that the answer costs nothing."""

    swept: bool = False
    draining: bool = False
    usable: dict[str, int] = field(default_factory=dict)

    def answer(self) -> tuple[int, bytes]:
        """Status and body. Having no usable backend is not unreadiness: somebody must answer 503."""
        ready = self.swept and not self.draining
        body = {
            "ready": ready,
            "health_swept": self.swept,
            "draining": self.draining,
            "usable_backends": self.usable,
        }
        return (200 if ready else 503), orjson.dumps(body)


def make_pages(
    pipeline: Callable[[], Pipeline],
    fleet: Callable[[], Fleet],
    ring: Callable[[], Ring],
    registry: Callable[[], CollectorRegistry],
    readiness: Readiness,
) -> APIRouter:
    """The routes that FastAPI serves."""
    pages = APIRouter()

    @pages.get("/healthz")
    async def healthz() -> Response:
        return _json(200, {"status": "ok"})

    @pages.get("/readyz")
    async def readyz() -> Response:
        status, body = readiness.answer()
        return Response(body, status, media_type="application/json")

    @pages.get("/metrics")
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry()), media_type=None, headers={"content-type": content_type})

    @pages.get("/v1/models")
    async def models(request: Request) -> Response:
        return _json(200, {"object": "list", "data": _served(pipeline(), fleet())}, request)

    @pages.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        for entry in _served(pipeline(), fleet()):
            if entry["id"] == name:
                return _json(200, entry, request)
        message = f"The model `{name[:128]}` does not exist."
        body = error_body(404, message, "model_not_found", "model")
        return Response(body, 404, _ids(request), "application/json")

    @pages.get("/debug/decisions")
    async def decisions(
        outcome: str | None = None,
        backend: str | None = None,
        rule: str | None = None,
        pool: str | None = None,
        limit: int = 50,
    ) -> Response:
        if outcome is not None and outcome not in set(Outcome):
            message = f"outcome: {outcome[:128]!r} is not one of {', '.join(Outcome)}"
            return Response(
                error_body(400, message, "invalid_parameter", "outcome"), 400, media_type="application/json"
            )
        found = ring().find(
            outcome=outcome, backend=backend, rule=rule, pool=pool, limit=max(0, min(limit, MAX_LISTED))
        )
        return _json(200, {"decisions": list(found)})

    @pages.get("/debug/decisions/{wanted}")
    async def decision(wanted: str) -> Response:
        record = ring().get(wanted)
        if record is None:
            message = f"no decision with the id {wanted[:128]} is remembered here"
            return Response(
                error_body(404, message, "decision_not_found"), 404, media_type="application/json"
            )
        return _json(200, record)

    @pages.get("/debug/backends")
    async def backends() -> Response:
        return _json(200, {"backends": [_backend(member.view) for member in fleet().members()]})

    @pages.post("/debug/decide")
    async def try_decide(request: Request, path: str = "/v1/chat/completions") -> Response:
        try:
            body = orjson.loads(await request.body())
        except orjson.JSONDecodeError as error:
            body = error
        if not isinstance(body, dict) or path not in INFERENCE_PATHS:
            message = "the body must be the JSON object of a request, `path` an inference path"
            return Response(error_body(400, message, "invalid_body"), 400, media_type="application/json")
        try:
            found = await pipeline().try_decide(body, path, request.headers.raw)
        except TooDeep as error:
            return Response(error_body(400, str(error), "invalid_body"), 400, media_type="application/json")
        return _json(200, found)

    return pages


def _served(pipeline: Pipeline, fleet: Fleet) -> list[dict[str, Any]]:
    """Models that some pool could serve now, with their aliases."""
    found: dict[str, dict[str, Any]] = {}
    for name, pool in pipeline.settings.policy.pools.items():
        if not fleet.usable(name):
            continue
        for model in (*pool.models, *pool.aliases):
            if model != ANY_MODEL:
                found.setdefault(
                    model, {"id": model, "object": "model", "created": 0, "owned_by": "platform"}
                )
    return list(found.values())


def _backend(view: Any) -> dict[str, Any]:
    return {
        "name": view.name,
        "pool": view.pool,
        "url": view.url,
        "state": view.state,
        "unusable": view.unusable,
        "in_flight": view.in_flight,
        "breaker_open": view.breaker_open,
        "ramp": view.ramp,
    }


def _ids(request: Request) -> dict[str, str]:
    value = request.headers.get("x-request-id")
    return {"x-request-id": request_id(value.encode("latin-1") if value is not None else None)}


def _json(status: int, content: Any, request: Request | None = None) -> Response:
    headers = _ids(request) if request is not None else None
    return Response(orjson.dumps(content, default=str), status, headers, "application/json")
