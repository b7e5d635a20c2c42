"""Asks a backend's agent (or a bare engine) for its health over HTTP."""

import httpx
import orjson

from router_service.ports import Health
from router_service.routing.vocabulary import State


class HttpProbe:
    """One client for all backends; a probe takes at most ``timeout_seconds``."""

    def __init__(self, timeout_seconds: float) -> None:
        # Proxies of the environment are for the world outside, never for a backend beside us.
        self._http = httpx.AsyncClient(timeout=timeout_seconds, trust_env=False)

    async def probe(self, health_url: str) -> Health:
        """GET ``health_url``: 200 is ready. The agent's JSON says the state; a bare engine has none."""
        try:
            response = await self._http.get(health_url)
        except (httpx.HTTPError, OSError) as error:
            return Health(False, State.UNREACHABLE, detail=f"{type(error).__name__}: {error}")
        return read_health(response.status_code, response.content)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def read_health(status: int, body: bytes) -> Health:
    """Understand an answer of ``/readyz`` or ``/health``. What is not the agent's JSON is ``unknown``."""
    ready = status == 200
    state = State.UNKNOWN
    waiting = 0.0
    try:
        answer = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        answer = {}
    if isinstance(answer, dict):
        said = answer.get("state")
        if isinstance(said, str) and said in State.__members__.values():
            state = State(said)
        engine = answer.get("engine")
        queue = engine.get("waiting") if isinstance(engine, dict) else None
        if isinstance(queue, int | float):
            waiting = float(queue)
    return Health(ready, state, waiting, "" if ready else f"status {status}")
