"""The console's reading of decision records: shared by all pages, and incremental. Against real routers."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from console.routers import SHARED_SECONDS, Routers
from harness.servers.router_fleet import Fleet, fleet_in

pytestmark = pytest.mark.service


class Counted(Routers):
    """Routers that keep what each reading returned."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__([router.url for router in fleet.routers], "", 5.0)
        self.answers: list[Any] = []

    async def _get(self, url: str, parameters: Mapping[str, str] | None) -> tuple[Any, str]:
        answer, problem = await super()._get(url, parameters)
        self.answers.append(answer)
        return answer, problem


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_in(tmp_path_factory.mktemp("fleet")) as found:
        found.add_engine("one")
        found.add_router()
        yield found


def send(fleet: Fleet, count: int) -> list[str]:
    """Send requests; return their ids, the newest first."""
    found = [fleet.routers[0].post().headers["x-request-id"] for _ in range(count)]
    fleet.routers[0].record(found[-1])
    return found[::-1]


def listed(routers: Routers) -> list[str]:
    return [record["request_id"] for record in routers.recent(1000)]


async def test_pages_share_one_reading_and_the_next_reads_only_new_records(fleet: Fleet) -> None:
    routers = Counted(fleet)
    try:
        first = send(fleet, 3)
        await asyncio.gather(*(routers.read_recent() for _ in range(5)))
        await asyncio.gather(*(routers.read("/debug/rules") for _ in range(5)))
        assert len(routers.answers) == 2, "one reading of each address"
        assert listed(routers)[:3] == first
        more = send(fleet, 2)
        await asyncio.sleep(SHARED_SECONDS)
        await routers.read_recent()
        assert [one["request_id"] for one in routers.answers[-1]["decisions"]] == more
        assert listed(routers)[:5] == more + first
    finally:
        await routers.close()


async def test_more_records_than_one_response_lists_are_read_in_several(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.recent.READ_AT_ONCE", 2)
    routers = Counted(fleet)
    try:
        sent = send(fleet, 7)
        await routers.read_recent()
        assert listed(routers)[:7] == sent
        assert max(len(answer["decisions"]) for answer in routers.answers) == 2
    finally:
        await routers.close()


async def test_records_of_a_router_that_restarted_are_read_again(fleet: Fleet) -> None:
    routers = Counted(fleet)
    try:
        await routers.read_recent()
        fleet.routers[0].kill()
        fleet.routers[0].start()
        sent = send(fleet, 2)
        await asyncio.sleep(SHARED_SECONDS)
        await routers.read_recent()
        assert listed(routers)[:2] == sent
    finally:
        await routers.close()
