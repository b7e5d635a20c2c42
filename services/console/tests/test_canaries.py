"""No address of the console, its terminal view or its MCP server shows a prompt, a key or a session id.

Addresses are enumerated from the application, so that this test fails for a new one that it does not read.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from console.app import make_app
from console.prometheus import Prometheus
from console.routers import Routers
from harness.servers.router_fleet import BIN, MODEL
from harness.servers.running_console import Console, running_console
from harness.waiting import eventually

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(300)]

CANARY = "canary-1943"
RULES = "rules:\n- name: other\n  when: {max_tokens_gte: 2}\n  route_to: general\n"

ADDRESSES: dict[str, tuple[str, ...]] = {
    "/static": ("/static/console.css", "/static/console.js"),
    "/": ("/", "/?live=true"),
    "/requests": ("/requests", "/requests?client=team-a&slow=1&outcome=ok", "/requests?outcome=unknown"),
    "/requests/{request_id}": ("/requests/ID", "/requests/unknown"),
    "/why": ("/why", "/why?until=unknown"),
    "/rules": ("/rules", f"/rules?model={MODEL}&max_tokens=20&prompt_chars=9", "/rules?path=unknown"),
    "/changes": ("/changes?window=1h", "/changes?window=unknown"),
    "/rules/replay": ("/rules/replay",),
    "/healthz": ("/healthz",),
}
"""The addresses that are read of each route; ID is a request's."""


@dataclass(frozen=True)
class Asked:
    """A console after requests with canaries, and the id of one of them."""

    console: Console
    request_id: str


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """Requests that succeed and one that is cut, each with a canary in every text that is not a name."""
    headers = {
        "x-session-id": f"{CANARY}-session",
        "authorization": f"Bearer sk-{CANARY}",
        "user-agent": f"{CANARY}-agent",
        "x-client-id": "team-a",
    }
    body = {
        "messages": [{"role": "user", "content": f"{CANARY}-prompt"}],
        "user": f"{CANARY}-user",
        "prompt_cache_key": f"{CANARY}-cache",
        "stream": True,
    }
    with running_console(tmp_path_factory.mktemp("console")) as console:
        router = console.fleet.routers[0]
        answers = [router.post(headers=headers, **body, max_tokens=tokens) for tokens in (2, 9)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert router.post(headers=headers, **{**body, "model": "unknown"}).status_code == 404
        request_id = answers[-1].headers["x-request-id"]
        router.record(request_id)
        yield Asked(console, request_id)


def replayed(url: str) -> httpx.Response:
    """Replay rules; on a busy machine a replay may need more than its limit of time."""

    def answer() -> httpx.Response | None:
        found = httpx.post(url, data={"rules": RULES}, timeout=60)
        return found if found.status_code == 200 else None

    return eventually(answer, "the rules are replayed", 120)


async def test_every_address_is_read() -> None:
    routers, prometheus = Routers([]), Prometheus("http://127.0.0.1:1")
    web = make_app(routers, prometheus)
    await routers.close()
    await prometheus.close()
    assert {route.path for route in web.routes} == set(ADDRESSES)


@pytest.mark.parametrize("address", ["/nothing", *(one for each in ADDRESSES.values() for one in each)])
def test_an_address_shows_no_canary(asked: Asked, address: str) -> None:
    url = asked.console.url + address.replace("ID", asked.request_id)
    answer = replayed(url) if address == "/rules/replay" else httpx.get(url, timeout=30)
    wrong = 400 if address != "/requests/unknown" else 404
    assert answer.status_code == (404 if address == "/nothing" else wrong if "unknown" in address else 200)
    assert CANARY not in f"{answer.headers}{answer.text}"
    if "ID" in address:
        assert asked.request_id in answer.text


def test_the_terminal_shows_no_canary(asked: Asked) -> None:
    sources = ["--router", asked.console.fleet.routers[0].url, "--prometheus", asked.console.prometheus]
    done = subprocess.run(
        [BIN / "python", "-m", "console.main", "watch", "--times", "1", *sources],
        capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert asked.request_id[:12] in done.stdout
    assert CANARY not in done.stdout + done.stderr
