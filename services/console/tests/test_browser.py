"""Every page in a real browser: wide and narrow, light and dark, axe finds nothing serious, nothing is cut off."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.browser import SCHEMES, WIDTHS, opened
from harness.servers.router_fleet import MODEL
from harness.servers.running_console import Console, running_console

pytestmark = [pytest.mark.service, pytest.mark.untimed]

PICTURES = os.environ.get("CONSOLE_PICTURES")
"""A folder for a picture of every page; to look at, and for docs/pictures/console."""


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console whose routers have answered some requests, one of them for an unknown model."""
    with running_console(tmp_path_factory.mktemp("console")) as found:
        router = found.fleet.routers[0]
        for number in range(12):
            more = {"model": "nothing"} if number == 5 else {"max_tokens": number}
            router.post(stream=True, headers={"x-client-id": f"team-{number % 3}"}, **more)
        yield found


def pages(console: Console) -> dict[str, str]:
    answer = console.fleet.routers[0].post(stream=True, headers={"x-client-id": "team-a"}, max_tokens=9)
    request_id = answer.headers["x-request-id"]
    console.fleet.routers[0].record(request_id)
    return {
        "now": "/",
        "requests": "/requests",
        "request": f"/requests/{request_id}",
        "why": "/why",
        "rules": f"/rules?model={MODEL}&max_tokens=20",
        "changes": "/changes",
        "missing": "/requests/nowhere",
    }


@pytest.mark.timeout(300)
def test_every_page_is_readable_at_each_width_and_scheme(console: Console) -> None:
    found = opened(console.url, pages(console), pictures=Path(PICTURES) if PICTURES else None)
    assert len(found) == 7 * len(WIDTHS) * len(SCHEMES)
    assert {one.status for one in found if one.name != "missing"} == {200}
    assert [text for one in found for text in one.wrong] == []
