"""The FastAPI application behind the inference endpoint: pages and the format of their errors."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from router_service.openai_api.errors import error_body
from router_service.pipeline.headers import request_id


def make_web(
    pages: APIRouter, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None
) -> FastAPI:
    """Build the application. ``lifespan`` opens and closes the resources that the pages use."""
    web = FastAPI(
        title="router-service",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    web.include_router(pages)

    @web.exception_handler(HTTPException)
    async def in_openai_shape(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        message = {
            404: f"there is nothing at {request.scope['path'][:200]}",
            405: f"{request.method} is not allowed here",
        }.get(error.status_code, str(error.detail))
        value = request.headers.get("x-request-id")
        headers = dict(error.headers or {})
        headers["x-request-id"] = request_id(value.encode("latin-1") if value is not None else None)
        return Response(
            error_body(error.status_code, message, code), error.status_code, headers, "application/json"
        )

    @web.exception_handler(RequestValidationError)
    async def says_which_value(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        name = str(found["loc"][-1])
        message = f"{name}: {str(found.get('input'))[:128]!r}: {found['msg']}"
        return Response(
            error_body(400, message, "invalid_parameter", name), 400, media_type="application/json"
        )

    return web
