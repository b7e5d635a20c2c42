"""The MCP server of the console, asked by the official client: the same answers, read-only, on stdio and loopback."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from harness.ports import free_port
from harness.processes import running
from harness.servers.router_fleet import BIN, MODEL
from harness.servers.running_console import Console, running_console

mcp = pytest.importorskip(
    "mcp", reason="the package mcp is not installed; run scripts/install-dependencies platform"
)

pytestmark = [pytest.mark.service, pytest.mark.untimed]

TOOLS = {"explain", "decide", "why_ttft", "verdict", "changes"}
CANARIES = ("prompt-canary-7715", "session-canary-7715", "sk-canary-7715")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console with its routers, engines and Prometheus."""
    with running_console(tmp_path_factory.mktemp("console")) as found:
        yield found


def arguments(console: Console) -> list[str]:
    routers = [part for router in console.fleet.routers for part in ("--router", router.url)]
    return ["-m", "console.main", "mcp", "--prometheus", console.prometheus, *routers]


def stdio(console: Console) -> Any:
    from mcp.client.stdio import StdioServerParameters

    return StdioServerParameters(command=str(BIN / "python"), args=arguments(console))


def asked(server: Any, *calls: tuple[str, dict[str, Any]]) -> tuple[list[Any], list[str]]:
    """Return the server's tools and the text of each call's result."""

    async def ask() -> tuple[list[Any], list[str]]:
        async with mcp.Client(server, read_timeout_seconds=30) as client:
            tools = (await client.list_tools()).tools
            assert not (await client.list_resources()).resources
            assert not (await client.list_prompts()).prompts
            results = [await client.call_tool(name, values) for name, values in calls]
            return tools, ["\n".join(part.text for part in one.content) for one in results]

    return asyncio.run(ask())


def test_every_tool_only_reads_and_gives_the_answers_of_the_pages(console: Console) -> None:
    answer = console.fleet.routers[0].post(
        stream=True, max_tokens=9, messages=[{"role": "user", "content": CANARIES[0]}],
        headers={"x-session-id": CANARIES[1], "authorization": f"Bearer {CANARIES[2]}", "x-client-id": "team-a"},
    )  # fmt: skip
    request_id = answer.headers["x-request-id"]
    console.fleet.routers[0].record(request_id)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("explain", {"request_id": request_id}),
        ("explain", {"request_id": "nowhere"}),
        ("decide", {"model": MODEL, "max_tokens": 20}),
        ("decide", {"model": MODEL, "path": "/v1/nothing"}),
        ("why_ttft", {"window": "5m"}),
        ("why_ttft", {"window": "nonsense"}),
        ("verdict", {}),
        ("changes", {"window": "1h"}),
    ]
    tools, texts = asked(stdio(console), *calls)
    assert {tool.name for tool in tools} == TOOLS
    assert {name for name, _ in calls} == TOOLS, "every tool is looked through for canaries"
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools)
    explained, missing, decided, wrong_path, why, wrong_window, verdict, changes = texts
    assert "Pool general: rule long matched." in explained
    assert "no record of nowhere" in missing
    assert "Pool general: rule long matched." in decided
    assert wrong_path.startswith("path: '/v1/nothing' is not one of")
    assert "router configuration aaaa1111 -> bbbb2222" in why
    assert wrong_window.startswith("window: 'nonsense' is not a duration")
    assert "no verdict yet" in verdict
    assert "alert none" in verdict
    assert "router configuration aaaa1111 -> bbbb2222" in changes
    assert not [canary for canary in CANARIES for text in texts if canary in text]


def test_a_port_is_on_loopback_and_refuses_other_hosts(console: Console) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    log = console.fleet.folder / "mcp.log"

    def listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    command = [str(BIN / "python"), *arguments(console), "--port", str(port)]
    with running(command, log=log, ready=listens):
        tools, _ = asked(url)
        assert {tool.name for tool in tools} == TOOLS
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        foreign = httpx.post(url, json=body, headers={"host": "evil.example"}, timeout=10)
        assert foreign.status_code in (403, 421)
        listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
        addresses = {
            line.split()[3] for line in listening.splitlines() if line.split()[3].endswith(f":{port}")
        }
        assert addresses == {f"127.0.0.1:{port}"}
