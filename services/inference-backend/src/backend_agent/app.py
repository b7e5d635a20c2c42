"""The agent's HTTP interface and its lifespan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from backend_agent.agent import Agent
from backend_agent.telemetry import Metrics


def create_app(agent: Agent, metrics: Metrics) -> FastAPI:
    """Return the app; the agent runs from its start to its end."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(agent.run())
        app.state.watching = watching
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    app = FastAPI(title="backend-agent", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez")
    async def livez() -> Response:
        """Answer liveness probes: 200 unless the engine has been stuck or silent for too long."""
        watches = not app.state.watching.done()
        alive = watches and not agent.worth_restarting
        return JSONResponse({"alive": alive, "watches": watches, **agent.status()}, 200 if alive else 503)

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        """Answer readiness probes: 200 while the engine accepts requests.

        A prober that sends the entity tag of its last answer gets 304 while state and queue are the same. The tag is
        weak: figures in the body may differ.
        """
        if not agent.ready:
            return JSONResponse(agent.status(), 503)
        tag = agent.tag
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        return JSONResponse(agent.status(), headers={"etag": tag})

    @app.get("/status")
    async def status() -> Response:
        """Report the engine's state and the evidence for it."""
        return JSONResponse(agent.status())

    @app.post("/drain")
    async def drain() -> Response:
        """Become not ready; running generations continue."""
        agent.drain()
        return JSONResponse(agent.status())

    @app.get("/metrics")
    async def exposition() -> Response:
        """Return the agent's metrics."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app
