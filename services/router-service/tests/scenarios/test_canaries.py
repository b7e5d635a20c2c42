"""No page of the router, and no command that reads its log, shows a prompt, a key or a session id.

Pages and commands are enumerated from the program, so that this test fails for a new one that it does not read.
"""

import argparse
import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.servers.router_fleet import BIN, MODEL, RouterPart, fleet_in
from harness.waiting import eventually
from router_service.api.pages import make_pages
from router_service.cli.commands import add_commands

pytestmark = [pytest.mark.service, pytest.mark.untimed]

CANARY = "canary-6620"
REQUESTS = 24
"""`what-if` needs 20 records."""

PATIENT = {"connect_seconds": 5, "first_token_seconds": 30, "idle_seconds": 30, "total_seconds": 60}

PAGES: dict[str, tuple[str, ...]] = {
    "/healthz": ("/healthz",),
    "/readyz": ("/readyz",),
    "/metrics": ("/metrics",),
    "/v1/models": ("/v1/models",),
    "/v1/models/{name:path}": (f"/v1/models/{MODEL}", "/v1/models/unknown"),
    "/v1/requests/{wanted}": ("/v1/requests/ID", "/v1/requests/ID-shadow", "/v1/requests/unknown"),
    "/debug/decisions": ("/debug/decisions?limit=1000", "/debug/decisions?outcome=unknown"),
    "/debug/decisions/{wanted}": (
        *("/debug/decisions/ID", "/debug/decisions/ID-shadow", "/debug/decisions/unknown"),
    ),
    "/debug/backends": ("/debug/backends",),
    "/debug/rules": ("/debug/rules",),
    "/debug/routing": ("/debug/routing",),
    "/debug/decide": ("/debug/decide",),
}
"""The addresses that are read of each page; ID is a request's."""

COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "explain": (("ID", "--log", "LOG"), ("ID-shadow", "--log", "LOG"), ("ID", "--url", "URL")),
    "replay": (("--config", "CONFIG", "LOG"), ("--config", "CONFIG", "LOG", "--json")),
    "compare-pools": (("LOG", "live", "next"), ("LOG", "live", "next", "--json")),
    "what-if": (("--config", "CONFIG", "LOG"), ("--config", "CONFIG", "LOG", "--json", "--engines", "2")),
}
"""The arguments that each command is run with."""

READ_NO_RECORD = {"check", "decide"}
ROLLOUT = {"rollout"}
"""`test_guarded_rollout.py` looks for canaries in what its commands write."""


@dataclass(frozen=True)
class Asked:
    """A router after requests with canaries, and the id of one of them."""

    router: RouterPart
    request_id: str

    def filled(self, text: str) -> str:
        """Replace the names in an address or an argument."""
        values = {"ID": self.request_id, "LOG": self.router.log, "CONFIG": self.router.command[-1]}
        for name, value in {**values, "URL": self.router.url}.items():
            text = text.replace(name, str(value))
        return text


def body() -> dict[str, Any]:
    """Return a request with a canary in each text that is not a name."""
    message = {"role": "user", "content": f"{CANARY}-prompt"}
    more = {
        "user": f"{CANARY}-user",
        "prompt_cache_key": f"{CANARY}-cache",
        "metadata": {"a": f"{CANARY}-meta"},
    }
    return {"messages": [message], "stream": True, "max_tokens": 3, **more}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """Two pools, the second for copies, and requests that succeed and fail."""
    with fleet_in(tmp_path_factory.mktemp("canaries")) as fleet:
        engines = {name: fleet.add_engine(name) for name in ("live", "next")}
        rule = {"name": "all", "when": {}, "route_to": "live", "shadow": {"pool": "next", "percent": 100}}
        (fleet.folder / "rules.yaml").write_text(yaml.safe_dump({"rules": [rule]}))
        pools = {
            name: {"models": [MODEL], "backends": {name: {"url": engine.url}}}
            for name, engine in engines.items()
        }
        routing = {"default_pool": "live", "rules_file": "rules.yaml"}
        router = fleet.add_router(wait_usable=0, pools=pools, routing=routing, timeouts=PATIENT)
        eventually(lambda: router.usable("live") == router.usable("next") == 1, "both pools are usable")
        headers = {
            "authorization": f"Bearer sk-{CANARY}",
            "x-session-id": f"{CANARY}-session",
            "user-agent": f"{CANARY}-agent",
            "x-client-id": "team-a",
        }
        for _ in range(REQUESTS):
            answer = router.post(headers=headers, **body())
            assert answer.status_code == 200, answer.text
        engines["live"].fault("die_mid_stream", after_chunks=1)
        with contextlib.suppress(httpx.RemoteProtocolError):
            router.post(headers=headers, **body())
        engines["live"].heal()
        request_id = answer.headers["x-request-id"]
        router.record(request_id)
        router.record(f"{request_id}-shadow")
        yield Asked(router, request_id)


def nothing(*_: Any) -> Any:
    return None


def test_every_page_is_read() -> None:
    pages = make_pages(nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    assert {route.path for route in pages.routes} == set(PAGES)


@pytest.mark.parametrize("address", [address for each in PAGES.values() for address in each])
def test_a_page_shows_no_canary(asked: Asked, address: str) -> None:
    method, sent = (
        ("POST", {"json": {"model": MODEL, **body()}}) if address == "/debug/decide" else ("GET", {})
    )
    headers = {
        "x-client-id": "team-a",
        "x-session-id": f"{CANARY}-session",
        "authorization": f"Bearer {CANARY}",
    }
    url = asked.router.url + asked.filled(address)
    answer = httpx.request(method, url, headers=headers, timeout=30, **sent)
    refused = 404 if "unknown" in address or address.startswith("/v1/requests/ID-") else 200
    assert answer.status_code == (400 if "outcome=unknown" in address else refused), answer.text
    assert CANARY not in f"{answer.headers}{answer.text}"


def test_every_command_is_run() -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    add_commands(commands)
    assert set(commands.choices) == set(COMMANDS) | READ_NO_RECORD | ROLLOUT


@pytest.mark.parametrize(
    ("command", "words"), [(name, words) for name, runs in COMMANDS.items() for words in runs]
)
def test_a_command_prints_no_canary(
    asked: Asked, command: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    done = subprocess.run(
        [BIN / "router-service", command, *map(asked.filled, words)],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert CANARY not in done.stdout + done.stderr


def test_the_log_has_no_canary(asked: Asked) -> None:
    assert CANARY not in asked.router.log.read_text()
