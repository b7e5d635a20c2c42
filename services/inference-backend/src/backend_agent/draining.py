"""The stop hook: makes a backend not ready and waits until no request runs. Communicates only with the agent."""

import time
from collections.abc import Callable

import httpx

ASK_SECONDS = 2.0
LOOK_SECONDS = 0.5


class CannotDrain(Exception):
    """The agent refused or did not answer. The message contains its response."""


def drain(
    url: str,
    *,
    settle_seconds: float,
    limit_seconds: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Drain the backend of the agent at ``url``; return whether no request was left within the limit.

    The backend becomes not ready at once. Routers may still send requests for ``settle_seconds``, so an idle
    backend counts as drained only after that time.

    Raises:
        CannotDrain: the agent cannot be reached or refuses.
    """
    began = clock()
    with httpx.Client(base_url=url, timeout=ASK_SECONDS, trust_env=False) as agent:
        try:
            agent.post("/drain").raise_for_status()
        except httpx.HTTPError as error:
            raise CannotDrain(f"{url}/drain: {error}") from None
        while clock() - began < limit_seconds:
            sleep(LOOK_SECONDS)
            left = _requests_left(agent)
            if left == 0 and clock() - began >= settle_seconds:
                say(f"drained in {clock() - began:.1f} s")
                return True
    say(f"not drained after {limit_seconds:.0f} s: {left if left is not None else 'unknown'} requests left")
    return False


def _requests_left(agent: httpx.Client) -> float | None:
    """Return the number of running and waiting requests; 0 if the engine is gone, None if it is unknown."""
    try:
        status = agent.get("/status").json()
    except (httpx.HTTPError, ValueError):
        return None
    engine = status["engine"]
    if "running" not in engine:
        return 0.0
    return float(engine["running"] + engine["waiting"])
