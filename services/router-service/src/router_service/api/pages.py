"""Probes, models, metrics and debug pages of the router itself. Must not run inference."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client.exposition import choose_encoder

from router_service.api.record_pages import Lookup, add_client_pages, add_record_pages
from router_service.openai_api.errors import error_body
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.headers import request_id, safe_name
from router_service.pipeline.pipeline import Pipeline
from router_service.records.ring import Ring
from router_service.routing.client_text import bounded_model
from router_service.routing.policy import ANY_MODEL
from router_service.routing.prompt_reader import Excessive
from router_service.telemetry.registry import Exposition


@dataclass(slots=True)
class Readiness:
    """Whether the router may receive requests. The response is prepared in advance, so that a probe costs nothing."""

    swept: bool = False
    draining: bool = False
    usable: dict[str, int] = field(default_factory=dict)

    def drain(self) -> None:
        """Report "not ready" from the next probe on."""
        self.draining = True

    def answer(self) -> tuple[int, bytes]:
        """Return status and body. A router without a usable backend stays ready, because it has to answer 503."""
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
    lookup: Lookup,
    exposition: Callable[[], Exposition],
    readiness: Readiness,
    card: Callable[[str, str], dict[str, Any]],
) -> APIRouter:
    """Return the routes that FastAPI serves."""
    pages = APIRouter()
    _add_probes(pages, exposition, readiness)
    _add_models(pages, pipeline, fleet, card)
    add_record_pages(pages, ring, lookup)
    add_client_pages(pages, lookup)
    _add_state(pages, pipeline, fleet)
    return pages


def _add_probes(pages: APIRouter, exposition: Callable[[], Exposition], readiness: Readiness) -> None:
    """Add the pages that Kubernetes and Prometheus poll."""

    @pages.api_route("/healthz", methods=["GET", "HEAD"])
    async def healthz() -> Response:
        return _json(200, {"status": "ok"})

    @pages.api_route("/readyz", methods=["GET", "HEAD"])
    async def readyz() -> Response:
        status, body = readiness.answer()
        return Response(body, status, media_type="application/json")

    @pages.get("/metrics")
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        pieces = []
        for piece in exposition().pieces(encode):
            pieces.append(piece)
            await asyncio.sleep(0)  # streams go on between two pieces
        return Response(b"".join(pieces), media_type=None, headers={"content-type": content_type})


def _add_models(
    pages: APIRouter,
    pipeline: Callable[[], Pipeline],
    fleet: Callable[[], Fleet],
    card: Callable[[str, str], dict[str, Any]],
) -> None:
    """Add the list of models in OpenAI's format."""

    @pages.get("/v1/models")
    async def models(request: Request) -> Response:
        listed = [
            entry for entry in _served(pipeline(), fleet(), card) if _may_use(pipeline(), entry, request)
        ]
        return _json(200, {"object": "list", "data": listed}, request)

    @pages.get("/v1/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        for entry in _served(pipeline(), fleet(), card):
            if entry["id"] == name and _may_use(pipeline(), entry, request):
                return _json(200, entry, request)
        message = f"The model `{bounded_model(name)}` does not exist."
        body = error_body(404, message, "model_not_found", "model")
        return Response(body, 404, _ids(request), "application/json")


def _add_state(pages: APIRouter, pipeline: Callable[[], Pipeline], fleet: Callable[[], Fleet]) -> None:
    """Add the pages of the live state: the backends, and a dry run of a request."""

    @pages.get("/debug/backends")
    async def backends() -> Response:
        return _json(200, {"backends": [_backend(member.view) for member in fleet().members()]})

    @pages.get("/debug/rules")
    async def rules() -> Response:
        settings = pipeline().settings
        policy = settings.policy
        found = {"config_hash": policy.hash, "default_pool": policy.default_pool, "rules": settings.rules}
        return _json(200, {**found, "replica": settings.replica_name})

    @pages.get("/debug/routing")
    async def routing() -> Response:
        return _json(200, {"config_hash": pipeline().settings.policy.hash, **pipeline().settings.routing})

    @pages.post("/debug/decide")
    async def try_decide(request: Request, path: str = "/v1/chat/completions") -> Response:
        try:
            body = orjson.loads(await _bounded_body(request, pipeline().settings.max_body_bytes))
        except orjson.JSONDecodeError as error:
            body = error
        if not isinstance(body, dict) or path not in INFERENCE_PATHS:
            message = "the body must be a request as a JSON object, and `path` an inference path"
            return Response(error_body(400, message, "invalid_body"), 400, media_type="application/json")
        try:
            found = await pipeline().try_decide(body, path, request.headers.raw)
        except Excessive as error:
            return Response(error_body(400, str(error), "invalid_body"), 400, media_type="application/json")
        return _json(200, found)


async def _bounded_body(request: Request, limit: int) -> bytes:
    """Return a request's body.

    Raises:
        HTTPException: 413, the body has more than ``limit`` bytes.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise HTTPException(413, f"the request body is larger than {limit} bytes")
    return bytes(body)


def _served(
    pipeline: Pipeline, fleet: Fleet, card: Callable[[str, str], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the models and aliases that some pool can serve, with their model cards."""
    found: dict[str, dict[str, Any]] = {}
    for name, pool in pipeline.settings.policy.pools.items():
        if not fleet.usable(name):
            continue
        for model in (*pool.models, *pool.aliases):
            if model != ANY_MODEL:
                known = card(name, model) or card(name, pool.aliases.get(model, ""))
                entry = {"id": model, "object": "model", "created": 0, "owned_by": "platform", **known}
                found.setdefault(model, entry)
    return list(found.values())


def _may_use(pipeline: Pipeline, entry: dict[str, Any], request: Request) -> bool:
    """Return whether the requesting client may use the listed model. Forbidden models are not listed."""
    client = safe_name(dict(request.headers.raw).get(b"x-client-id"))
    return pipeline.settings.policy.may_use(client, entry["id"])


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
        "round_trip_seconds": view.round_trip_seconds,
    }


def _ids(request: Request) -> dict[str, str]:
    value = request.headers.get("x-request-id")
    return {"x-request-id": request_id(value.encode("latin-1") if value is not None else None)}


def _json(status: int, content: Any, request: Request | None = None) -> Response:
    headers = _ids(request) if request is not None else None
    return Response(orjson.dumps(content, default=str), status, headers, "application/json")
