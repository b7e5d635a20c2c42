"""The agent's HTTP interface and its lifespan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Response
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
        """200 while the agent watches and its engine is not beyond hope: what liveness probes ask."""
        watches = not app.state.watching.done()
        alive = watches and not agent.worth_restarting
        return JSONResponse({"alive": alive, "watches": watches, **agent.status()}, 200 if alive else 503)

    @app.get("/readyz")
    async def readyz() -> Response:
        """200 while requests may be sent to the engine."""
        return JSONResponse(agent.status(), 200 if agent.ready else 503)

    @app.get("/status")
    async def status() -> Response:
        """What the engine is doing and how that is known."""
        return JSONResponse(agent.status())

    @app.post("/drain")
    async def drain() -> Response:
        """Turn not ready; running generations go on."""
        agent.drain()
        return JSONResponse(agent.status())

    @app.get("/metrics")
    async def exposition() -> Response:
        """The agent's metrics."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app
