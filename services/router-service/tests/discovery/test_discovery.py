"""Backends come when they are ready and go when they terminate, whatever happens to the watch or to DNS."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aiohttp import web
from kubernetes_asyncio import client

from router_service.config.model import Backend, Discover
from router_service.dead_peer import IDLE_SECONDS, LOST_SECONDS
from router_service.discovery.dns import DnsDiscovery
from router_service.discovery.endpoint_slices import EndpointSlicesDiscovery
from router_service.discovery.kubernetes_api import watched_client
from router_service.discovery.static import StaticDiscovery
from router_service.ports import DiscoveryFailed, Endpoint

SLICES = {"service": "backend-a", "namespace": "llm"}


class ApiServer:
    """As much of a Kubernetes API server as EndpointSlices need: list, watch from a version, 410, cut watches."""

    def __init__(self) -> None:
        self.version = 1
        self.slices: dict[str, dict[str, Any]] = {}
        self.lists = 0
        self.gone = False
        self.selectors: list[str] = []
        self._watchers: set[asyncio.Queue[dict[str, Any] | None]] = set()
        self._log: list[tuple[int, dict[str, Any]]] = []

    def put(self, name: str, *endpoints: dict[str, Any]) -> None:
        """Create or change a slice and tell every watcher."""
        self.version += 1
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self.slices[name] = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "llm", "resourceVersion": str(self.version)},
            "addressType": "IPv4",
            "endpoints": list(endpoints),
        }
        self._tell({"type": kind, "object": self.slices[name]})

    def delete(self, name: str) -> None:
        self.version += 1
        self._tell({"type": "DELETED", "object": self.slices.pop(name)})

    def _tell(self, event: dict[str, Any] | None) -> None:
        if event is not None:
            self._log.append((self.version, event))
        for watcher in self._watchers:
            watcher.put_nowait(event)

    def cut_watches(self) -> None:
        self._tell(None)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.selectors.append(request.query.get("labelSelector", ""))
        if request.query.get("watch", "").lower() != "true":
            self.lists += 1
            items = list(self.slices.values())
            listed = {"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1", "items": items}
            return web.json_response({**listed, "metadata": {"resourceVersion": str(self.version)}})
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            if self.gone:
                self.gone = False
                status = {
                    "kind": "Status",
                    "code": 410,
                    "reason": "Expired",
                    "message": "too old",
                    "status": "Failure",
                }
                await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
                return response
            since = int(request.query["resourceVersion"])
            for version, event in self._log:
                if version > since:  # a watch begins where its list ended
                    await response.write(json.dumps(event).encode() + b"\n")
            while (event := await queue.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self._watchers.discard(queue)
        return response


@pytest.fixture
async def api() -> AsyncIterator[tuple[ApiServer, client.ApiClient]]:
    server = ApiServer()
    app = web.Application()
    app.router.add_get("/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    configuration = client.Configuration()
    configuration.host = f"http://127.0.0.1:{port}"
    yield server, watched_client(configuration)
    server.cut_watches()
    await runner.cleanup()


def pod(name: str, address: str, ready: bool | None = True, terminating: bool = False) -> dict[str, Any]:
    return {
        "addresses": [address],
        "conditions": {"ready": ready, "terminating": terminating},
        "targetRef": {"kind": "Pod", "name": name},
    }


async def until(watching: AsyncIterator[Sequence[Endpoint]], names: list[str]) -> None:
    async with asyncio.timeout(20):
        async for endpoints in watching:
            if [e.name for e in endpoints] == names:
                return


def slices_discovery(api: client.ApiClient) -> EndpointSlicesDiscovery:
    discover = Discover(endpoint_slices=SLICES, health_port=8001, health_path="/readyz")  # type: ignore[arg-type]
    return EndpointSlicesDiscovery("pool", discover, api=api)


async def test_only_ready_endpoints_are_listed_and_terminating_ones_leave(
    api: tuple[ApiServer, client.ApiClient],
) -> None:
    server, connection = api
    server.put("s1", pod("p1", "10.0.0.1"), pod("p2", "10.0.0.2", ready=False))
    discovery = slices_discovery(connection)
    watching = discovery.watch()
    first = await anext(watching)
    assert first == [Endpoint("p1", "http://10.0.0.1:8000", "http://10.0.0.1:8001/readyz")]
    assert server.selectors[0] == "kubernetes.io/service-name=backend-a"
    server.put("s1", pod("p1", "10.0.0.1", terminating=True), pod("p2", "10.0.0.2"))
    await until(watching, ["p2"])
    server.put("s2", pod("p3", "10.0.0.3"))
    await until(watching, ["p2", "p3"])
    server.delete("s1")
    await until(watching, ["p3"])
    await discovery.close()


def sockets_to(url: str) -> list[socket.socket]:
    """Return copies of this process's TCP sockets that are connected to a loopback URL."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            one = socket.socket(fileno=os.dup(int(descriptor)))
            if one.getpeername()[:2] == ("127.0.0.1", int(url.rpartition(":")[2])):
                found.append(one)
                continue
        except OSError:  # not a socket, or not connected
            continue
        one.close()
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="options of Linux")
async def test_a_silent_watch_notices_when_the_host_of_the_api_server_is_gone(
    api: tuple[ApiServer, client.ApiClient],
) -> None:
    server, connection = api
    server.put("s1", pod("p1", "10.0.0.1"))
    discovery = slices_discovery(connection)
    await anext(discovery.watch())
    sockets = sockets_to(connection.configuration.host)
    assert sockets
    for one in sockets:
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == IDLE_SECONDS
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == LOST_SECONDS * 1000
        one.close()
    await discovery.close()


@pytest.mark.parametrize("fault", ["cut", "gone"])
async def test_a_watch_that_ends_or_lost_its_place_lists_again_and_misses_nothing(
    api: tuple[ApiServer, client.ApiClient], fault: str
) -> None:
    server, connection = api
    server.put("s1", pod("p1", "10.0.0.1"))
    discovery = slices_discovery(connection)
    watching = discovery.watch()
    await anext(watching)
    server.gone = fault == "gone"
    server.slices["s2"] = {
        **server.slices["s1"],
        "metadata": {"name": "s2", "namespace": "llm"},
        "endpoints": [pod("p2", "10.0.0.2")],
    }  # changed without an event: only a new list can show it
    following = asyncio.ensure_future(until(watching, ["p1", "p2"]))
    await asyncio.sleep(0.3)
    if fault == "cut":
        server.cut_watches()
    await following
    assert server.lists >= 2
    await discovery.close()


async def test_an_api_server_that_is_not_there_says_nothing_about_the_pool_and_warns() -> None:
    """A list of nothing would take away what the pool has, as after a reload during an outage."""
    configuration = client.Configuration()
    configuration.host = "http://127.0.0.1:1"
    warned = asyncio.Event()
    warnings: list[str] = []

    def warn(problem: str | None) -> None:
        warnings.append(problem or "")
        warned.set()

    discovery = EndpointSlicesDiscovery(
        "pool",
        Discover(endpoint_slices=SLICES),
        warn,
        client.ApiClient(configuration),  # type: ignore[arg-type]
    )
    first = asyncio.ensure_future(anext(discovery.watch()))
    await asyncio.wait_for(warned.wait(), 20)
    assert "backend-a" in warnings[0]
    assert not first.done()
    first.cancel()
    await discovery.close()


async def test_dns_is_resolved_again_and_its_failure_keeps_the_last_list() -> None:
    answers: list[list[str] | None] = [None, ["10.0.0.1"], None, ["10.0.0.1"], ["10.0.0.1", "fd00::2"]]
    reports: list[str | None] = []

    async def resolve(name: str, port: int) -> list[str]:
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        if found is None:
            raise DiscoveryFailed(f"{name}: no answer")
        return found

    discover = Discover(dns="engines", port=9000, interval_seconds=0.01)
    watching = DnsDiscovery("pool", discover, reports.append, resolve).watch()
    assert [e.url for e in await anext(watching)] == ["http://10.0.0.1:9000"]
    second = await anext(watching)
    assert [e.url for e in second] == ["http://10.0.0.1:9000", "http://[fd00::2]:9000"]
    assert second[1].name == "pool/[fd00::2]:9000"
    failed = "engines: no answer"
    assert reports == [failed, None, failed, None, None], "the list is known again as soon as it is"


async def test_configured_backends_are_yielded_once_with_their_default_health_url() -> None:
    discovery = StaticDiscovery(
        {"a": Backend(url="http://h:1/"), "b": Backend(url="http://h:2", health_url="http://h:3/x")}
    )
    found = await anext(discovery.watch())
    assert [e.health_url for e in found] == ["http://h:1/health", "http://h:3/x"]
