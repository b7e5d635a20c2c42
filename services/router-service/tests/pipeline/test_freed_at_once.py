"""The objects of a request are freed when it ends, without the garbage collector.

A circle of references in each request once made the collector take a third of the router's CPU time under load.
"""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from harness.fake_upstream import Script
from harness.scripted_request import ANSWERS, DONE, FAR, JSON, NEAR, ROLE, STREAM, TOKEN, Client, play
from router_service.pipeline.fleet import Fleet
from router_service.pipeline.pipeline import Pipeline
from router_service.routing.rules import Timeouts

WHOLE = Script(200, STREAM, (ROLE, TOKEN, DONE))

ENDS: dict[str, dict[str, Any]] = {
    "unstreamed": {"scripts": (Script(200, JSON, (b'{"a":1}',)),), "stream": False},
    "refused by the engine": {"scripts": (Script(400, JSON, (b"{}",)),), "stream": False},
    "no backend answers": {"scripts": (Script(503, JSON, (b"{}",)),), "stream": False},
    "retried": {"scripts": (Script(200, STREAM, (ROLE,), "break"), WHOLE)},
    "broken off": {"scripts": (Script(200, STREAM, (ROLE, TOKEN), "break"),)},
    "first token too late": {
        "scripts": (Script(200, STREAM, (ROLE,), "silence"),),
        "timeouts": Timeouts(FAR, NEAR, FAR, FAR),
    },
    "silent": {
        "scripts": (Script(200, STREAM, (TOKEN,), "silence"),),
        "timeouts": Timeouts(FAR, FAR, NEAR, FAR),
    },
    **{
        f"streamed {path}": {"scripts": (Script(200, STREAM, (before, *rest)),), "path": path}
        for path, (before, rest) in ANSWERS.items()
    },
}


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Keep the collector from running during a test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def only_collected() -> list[str]:
    """Return the types of the router's objects that are unreachable and not freed."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return sorted(
            type(found).__name__
            for found in gc.garbage
            if type(found).__module__.startswith("router_service")
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.mark.parametrize("end", ENDS)
async def test_a_request_leaves_nothing_to_the_garbage_collector(end: str) -> None:
    given = dict(ENDS[end])
    await play(*given.pop("scripts"), **given)
    await asyncio.sleep(0)
    assert only_collected() == []


async def test_a_request_that_is_aborted_leaves_nothing_to_the_garbage_collector() -> None:
    async def abort(fleet: Fleet, pipeline: Pipeline, client: Client) -> None:
        await asyncio.sleep(0.05)
        pipeline.abort_all("the test ends it")

    await play(Script(200, STREAM, (TOKEN,), "silence"), meanwhile=abort)
    await asyncio.sleep(0)
    assert only_collected() == []
