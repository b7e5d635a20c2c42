"""A router with one scripted engine, which must still serve after every test."""

from collections.abc import Iterator

import pytest

from harness.servers.odd_bytes import ANSWER, in_front_of
from harness.servers.router_fleet import RouterPart, fleet_in
from harness.servers.scripted_engine import ScriptedEngine, scripted_engine
from harness.waiting import eventually


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedEngine]:
    with scripted_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def router(engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterPart]:
    with fleet_in(tmp_path_factory.mktemp("odd")) as fleet:
        yield in_front_of(fleet, engine, server={"max_body_bytes": 500_000})


@pytest.fixture(autouse=True)
def still_serves(router: RouterPart, engine: ScriptedEngine) -> Iterator[None]:
    """After every test nothing is in flight and a plain request is answered."""
    yield
    engine.script = [ANSWER]
    eventually(lambda: router.metric("router_in_flight") == 0, "nothing is in flight")
    assert router.post().json() == {"a": 1}
    assert '"traceback"' not in router.log.read_text()
