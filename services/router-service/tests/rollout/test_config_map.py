"""The weights in a ConfigMap: one writer by resourceVersion, and every fault of the API keeps the shares."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from kubernetes_asyncio import client

from harness.clock import Clock
from harness.ports import free_port
from router_service.discovery.kubernetes_api import watched_client
from router_service.rollout import config_map
from router_service.rollout.config_map import ConfigMapStore
from router_service.rollout.controller import Controller
from router_service.rollout.leader import FileLeader
from router_service.rollout.probes import STUCK_SECONDS, Probes

NAME, NAMESPACE, WINDOW = "router-service-weights", "llm", 60.0
NOW = 1_800_000_000.0
URL = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{NAME}"


class ApiServer:
    """One ConfigMap as an API server keeps it: get and server-side apply, versions, 403, 404 and 409.

    ``verbs`` are those that the Role allows. ``before_write`` acts as somebody else between a read and a write.
    """

    def __init__(self) -> None:
        self.version = 100
        self.stored: dict[str, Any] | None = None
        self.verbs = {"get", "create", "patch"}
        self.before_write: Callable[[], None] = lambda: None
        self.drop_answers = False
        self.silent = asyncio.Event()
        self.silent.set()
        self.writes = 0
        self.runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", URL, self.answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def stop(self) -> None:
        assert self.runner is not None
        await self.runner.cleanup()

    def put(self, text: str, **metadata: str) -> None:
        """Store the ConfigMap, as a person or another controller does."""
        self.version += 1
        metadata = {"name": NAME, "namespace": NAMESPACE, "resourceVersion": str(self.version), **metadata}
        self.stored = {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"weights.yaml": text},
        }  # fmt: skip

    def entry(self) -> dict[str, Any]:
        assert self.stored is not None
        found: dict[str, Any] = yaml.safe_load(self.stored["data"]["weights.yaml"])["rollouts"]["r"]
        return found

    async def answer(self, request: web.Request) -> web.Response:
        await self.silent.wait()
        verb = {"GET": "get", "PATCH": "patch"}[request.method]
        if verb not in self.verbs:
            return _forbidden(verb)
        if verb == "get":
            return _status(404, "not found") if self.stored is None else web.json_response(self.stored)
        assert request.content_type == "application/apply-patch+yaml"
        assert request.query["fieldManager"] == "router-service-rollout"
        body = await request.json()
        self.before_write()
        if self.stored is None and "create" not in self.verbs:
            return _forbidden("create")
        wanted = body["metadata"].get("resourceVersion")
        known = None if self.stored is None else self.stored["metadata"]["resourceVersion"]
        if wanted is not None and wanted != known:
            return _status(409, "the object has been modified")
        self.put(body["data"]["weights.yaml"], **{k: v for k, v in body["metadata"].items() if k == "labels"})
        self.writes += 1
        if self.drop_answers:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(self.stored)


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)


def _forbidden(verb: str) -> web.Response:
    return _status(
        403,
        f'configmaps "{NAME}" is forbidden: User "system:serviceaccount:llm:router-service-rollout" cannot {verb} '
        'resource "configmaps" in API group "" in the namespace "llm"',
    )


class Controlled:
    """A controller in a pod: its own folder and lock, the API server, and its log."""

    def __init__(self, api: ApiServer, folder: Path, clock: Clock) -> None:
        folder.mkdir()
        write_config(folder)
        self.file = folder / "weights.yaml"
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        settings = client.Configuration()
        settings.host = f"http://127.0.0.1:{api.port}"
        self.weights = ConfigMapStore(NAMESPACE, NAME, self.file, watched_client(settings))
        self.leader = FileLeader(folder / "lock")
        self.controller = Controller(folder / "router.yaml", self.leader, self.weights, self._log, clock)

    def _log(self, level: str, event: str, **values: object) -> None:
        self.events.append((level, event, values))

    async def turn(self) -> str | None:
        return await self.controller.turn()

    def actions(self) -> list[str]:
        return [values["step"]["action"] for _, event, values in self.events if event == "rollout_decided"]

    def logged(self, event: str) -> list[tuple[str, str]]:
        return [(level, values["problem"]) for level, name, values in self.events if name == event]

    async def close(self) -> None:
        await self.leader.close()
        await self.weights.close()


def write_config(folder: Path) -> None:
    pools = {
        name: {"models": ["m"], "backends": {name: {"url": "http://127.0.0.1:1"}}} for name in ("old", "new")
    }
    rollout = {"to": "new", "steps": [5, 50], "window_seconds": WINDOW, "objectives": {"errors": 0.02}}
    rules = [{"name": "r", "when": {}, "route_to": "old", "rollout": rollout}]
    routing = {"default_pool": "old", "rules_file": "rules.yaml", "weights_file": "weights.yaml"}
    main = {"server": {"port": free_port()}, "pools": pools, "routing": routing}
    (folder / "router.yaml").write_text(yaml.safe_dump(main))
    (folder / "rules.yaml").write_text(yaml.safe_dump({"rules": rules}))


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    await server.start()
    yield server
    server.silent.set()
    await server.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
async def one(api: ApiServer, tmp_path: Path, clock: Clock) -> AsyncIterator[Controlled]:
    controlled = Controlled(api, tmp_path / "one", clock)
    yield controlled
    await controlled.close()


async def test_the_controller_creates_the_config_map_and_another_pod_continues_from_it(
    api: ApiServer, one: Controlled, tmp_path: Path, clock: Clock
) -> None:
    assert await one.turn() is None
    assert (one.actions(), api.entry()["percent"]) == (["start"], 5)
    assert api.stored is not None
    assert one.file.read_text() == api.stored["data"]["weights.yaml"]
    api.put(api.stored["data"]["weights.yaml"].replace('"advancing"', '"went_back"'))
    other = Controlled(api, tmp_path / "other", clock)
    clock.now += WINDOW
    assert await other.turn() is None
    clock.now += WINDOW
    assert await other.turn() is None
    assert other.actions() == ["hold"], "a rollout that went back does not start again in a new pod"
    assert api.entry()["decided"]["reason"] == "waits_for_attempt"
    await other.close()


async def test_a_write_after_somebody_elses_is_refused_and_made_again_on_what_they_wrote(
    api: ApiServer, one: Controlled, clock: Clock
) -> None:
    await one.turn()
    clock.now += WINDOW

    def edited() -> None:
        assert api.stored is not None
        api.put(api.stored["data"]["weights.yaml"] + "# a note\n")

    api.before_write = edited
    problem = await one.turn()
    assert problem == (
        "ConfigMap llm/router-service-weights has changed since it was read: it is read again before the next write"
    )
    assert api.stored is not None
    assert api.stored["data"]["weights.yaml"].endswith("# a note\n"), "nothing was overwritten"
    api.before_write = lambda: None
    assert await one.turn() is None
    assert (one.actions(), api.entry()["decided"]["action"]) == (["start", "hold"], "hold")


async def test_a_step_of_another_controller_replaces_the_decision_about_the_step_before(
    api: ApiServer, one: Controlled, clock: Clock
) -> None:
    """As without Redis, while the pod of a lost node still runs: both believe that they lead."""
    await one.turn()
    clock.now += WINDOW
    assert api.stored is not None
    text = api.stored["data"]["weights.yaml"].replace('"percent": 5.0', '"percent": 50.0')
    api.before_write = lambda: api.put(text)
    assert "has changed since it was read" in str(await one.turn())
    api.before_write = lambda: None
    assert await one.turn() is None
    assert (one.actions(), api.entry()["percent"]) == (["start"], 50)
    clock.now += WINDOW
    assert await one.turn() is None
    assert (one.actions(), api.entry()["percent"]) == (["start", "hold"], 50)


@pytest.mark.parametrize(("missing", "verb"), [("get", "get"), ("patch", "patch"), ("create", "create")])
async def test_a_missing_right_is_named_with_its_role(
    api: ApiServer, one: Controlled, missing: str, verb: str
) -> None:
    api.verbs.remove(missing)
    for _ in range(2):
        problem = await one.turn()
    assert problem is not None
    assert problem.startswith("ConfigMap llm/router-service-weights: this service account may not ")
    assert f'cannot {verb} resource "configmaps" in API group "" in the namespace "llm"' in problem
    assert "let a Role in llm (the chart's: router-service-weights) allow get, create and patch" in problem
    event = "rollout_not_read" if missing == "get" else "rollout_not_written"
    assert one.logged(event) == [("error", problem)], "once, not every two seconds"
    assert api.stored is None
    api.verbs.add(missing)
    assert await one.turn() is None
    assert (one.actions(), api.entry()["percent"]) == (["start"], 5)


async def test_a_deleted_config_map_starts_the_rollout_at_its_first_step(
    api: ApiServer, one: Controlled, clock: Clock
) -> None:
    await one.turn()
    assert api.stored is not None
    api.put(api.stored["data"]["weights.yaml"].replace("5.0", "50.0"))
    assert await one.turn() is None
    api.stored = None
    await one.weights.refresh()
    assert not one.file.exists(), "as in the routers, which use no share then"
    assert await one.turn() is None
    assert (one.actions()[-1], api.entry()["percent"]) == ("start", 5)


@pytest.mark.parametrize("fault", ["refused", "silent"])
async def test_while_the_api_server_is_away_nothing_is_decided_and_the_state_is_kept(
    api: ApiServer, one: Controlled, clock: Clock, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    await one.turn()
    before = one.file.read_text()
    if fault == "refused":
        await api.stop()
    else:
        monkeypatch.setattr(config_map, "TIMEOUT_SECONDS", 0.2)
        api.silent.clear()
    clock.now += WINDOW
    for _ in range(2):
        problem = await one.turn()
    assert problem is not None
    assert problem.startswith("ConfigMap llm/router-service-weights: get failed: ")
    assert "check the API server" in problem
    assert len(one.logged("rollout_not_read")) == 1
    assert (one.actions(), one.file.read_text()) == (["start"], before)
    if fault == "refused":
        await api.start()
    api.silent.set()
    assert await one.turn() is None
    assert one.actions() == ["start", "hold"]
    assert one.logged("rollout_not_read")[-1] == ("info", None)


async def test_a_write_whose_response_is_lost_is_one_decision(
    api: ApiServer, one: Controlled, clock: Clock
) -> None:
    api.drop_answers = True
    problem = await one.turn()
    assert problem is not None
    assert "patch failed: " in problem
    assert (api.writes, one.actions()) == (1, [])
    api.drop_answers = False
    assert await one.turn() is None
    assert (api.writes, one.actions()) == (1, ["start"]), "found when it was read again"


async def test_a_config_map_that_a_person_broke_stops_decisions_with_its_line(
    api: ApiServer, one: Controlled, clock: Clock
) -> None:
    await one.turn()
    api.put("rollouts: {r: {to: new, percent: 700}}\n")
    clock.now += WINDOW
    problem = await one.turn()
    assert problem is not None
    assert "weights.yaml:1:" in problem
    assert one.actions() == ["start"]
    assert api.stored is not None
    assert "700" in api.stored["data"]["weights.yaml"]


async def test_the_probes_say_what_is_wrong_and_notice_a_controller_that_does_not_turn() -> None:
    clock = Clock(NOW)
    probes = Probes(clock)
    runner = await probes.serve("127.0.0.1", port := free_port())

    async def ask(path: str) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.strip()

    assert await ask("/readyz") == (503, "no turn has ended yet")
    probes.turned("Redis is away")
    assert await ask("/readyz") == (503, "Redis is away")
    probes.turned(None)
    assert [await ask(path) for path in ("/readyz", "/healthz")] == [(200, "ok"), (200, "ok")]
    clock.now += STUCK_SECONDS + 1
    assert await ask("/healthz") == (503, "no turn has ended for 61 s")
    await runner.cleanup()
