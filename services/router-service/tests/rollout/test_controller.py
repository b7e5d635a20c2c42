"""One controller writes at a time, a lost lock stops it, and a failed write leaves the weights file as it was."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from harness.clock import Clock
from harness.ports import free_port
from harness.servers.router_fleet import Part, fleet_in
from platform_contracts.redis_login import RedisLogin
from router_service.config.rollout_model import ShareSection
from router_service.rollout.controller import Controller
from router_service.rollout.leader import KEY, LEASE_SECONDS, FileLeader, Leader, RedisLeader
from router_service.rollout.weights_store import SharedFile, WeightsProblem

pytestmark = [pytest.mark.service, pytest.mark.untimed]

NOW, WINDOW = 1_800_000_000.0, 60.0


class Controlled:
    """A controller with its log."""

    def __init__(self, folder: Path, leader: Leader, clock: Clock) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.leader = leader
        self.controller = Controller(folder / "router.yaml", leader, SharedFile(), self._log, clock)

    def _log(self, level: str, event: str, **values: object) -> None:
        self.events.append((level, event, values))

    async def turn(self) -> list[str]:
        """Run one turn and return the actions that were decided in it."""
        before = len(self.events)
        await self.controller.turn()
        found = self.events[before:]
        return [values["step"]["action"] for _, event, values in found if event == "rollout_decided"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pools = {
        name: {"models": ["m"], "backends": {name: {"url": "http://127.0.0.1:1"}}} for name in ("old", "new")
    }
    rollout = {"to": "new", "steps": [5, 50], "window_seconds": WINDOW, "objectives": {"errors": 0.02}}
    rules = [{"name": "r", "when": {}, "route_to": "old", "rollout": rollout}]
    main = {
        "server": {"port": free_port()},
        "pools": pools,
        "routing": {"default_pool": "old", "rules_file": "rules.yaml", "weights_file": "weights.yaml"},
    }
    (tmp_path / "router.yaml").write_text(yaml.safe_dump(main))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"rules": rules}))
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Part]:
    with fleet_in(tmp_path) as fleet:
        part = fleet.add_redis()
        part.wait()
        yield part


def entry(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "weights.yaml").read_text())["rollouts"]["r"]
    return found


def in_redis(store: Part, clock: Clock) -> RedisLeader:
    return RedisLeader(RedisLogin(f"redis://127.0.0.1:{store.port}/0"), 1.0, clock)


async def test_of_two_controllers_with_a_file_lock_one_leads_and_the_other_continues(folder: Path) -> None:
    clock = Clock(NOW)
    first, second = (Controlled(folder, FileLeader(folder / "lock"), clock) for _ in range(2))
    assert await first.turn() == ["start"]
    assert await second.turn() == []
    assert (entry(folder)["percent"], entry(folder)["decided"]["action"]) == (5, "start")
    clock.now += WINDOW
    assert await second.turn() == [], "the first one still leads"
    await first.leader.close()
    assert await second.turn() == [], "its window of this step has not ended"
    clock.now += WINDOW
    assert await second.turn() == ["hold"]
    assert (entry(folder)["percent"], entry(folder)["decided"]["reason"]) == (5, "too_few_requests")
    await second.leader.close()


async def test_a_lock_file_that_was_deleted_is_not_a_lock(folder: Path) -> None:
    leader = FileLeader(folder / "lock")
    assert await leader.keep()
    (folder / "lock").unlink()
    other = FileLeader(folder / "lock")
    assert await other.keep()
    assert not leader.held()
    assert not await leader.keep()


async def test_of_two_controllers_with_redis_one_leads_until_its_lease_ends(
    folder: Path, store: Part
) -> None:
    clock = Clock(NOW)
    first, second = (Controlled(folder, in_redis(store, clock), clock) for _ in range(2))
    assert await first.turn() == ["start"]
    assert await second.turn() == []
    assert not second.leader.held()
    assert await first.turn() == [], "renewed, nothing due"
    assert first.leader.held()
    client = redis.Redis(port=store.port)
    assert 0 < client.pttl(KEY) <= LEASE_SECONDS * 1000
    await first.leader.close()  # Gives the lock up at once.
    clock.now += WINDOW
    await second.turn()
    assert second.leader.held()
    await second.leader.close()
    assert client.get(KEY) is None


async def test_a_controller_that_lost_the_lock_writes_nothing(folder: Path, store: Part) -> None:
    clock = Clock(NOW)
    one = Controlled(folder, in_redis(store, clock), clock)
    assert await one.turn() == ["start"]
    redis.Redis(port=store.port).set(KEY, "another controller")
    (folder / "weights.yaml").unlink()  # A leader would start anew.
    clock.now += WINDOW
    assert await one.turn() == []
    assert not (folder / "weights.yaml").exists()
    assert ("info", "rollout_leader", {"leads": False}) in one.events
    await one.leader.close()


async def test_a_controller_that_ends_gives_only_its_own_lock_up(folder: Path, store: Part) -> None:
    leader = in_redis(store, Clock(NOW))
    assert await leader.keep()
    redis.Redis(port=store.port).set(KEY, "another controller")
    assert leader.held(), "it has not noticed yet"
    await leader.close()
    assert redis.Redis(port=store.port).get(KEY) == b"another controller"


async def test_a_controller_that_stalls_past_its_lease_writes_nothing(folder: Path, store: Part) -> None:
    clock = Clock(NOW)
    one = Controlled(folder, in_redis(store, clock), clock)
    log = one.controller._log

    def stall(level: str, event: str, **values: object) -> None:
        log(level, event, **values)
        if event == "rollout_leader":  # After the lock was taken, before the write.
            clock.now += LEASE_SECONDS

    one.controller._log = stall
    assert await one.turn() == []
    assert not (folder / "weights.yaml").exists()
    await one.leader.close()


async def test_without_redis_a_leader_stays_one_until_its_lease_ends(folder: Path, store: Part) -> None:
    clock = Clock(NOW)
    leader = in_redis(store, clock)
    assert await leader.keep()
    store.end()
    clock.now += LEASE_SECONDS / 2
    assert await leader.keep()
    clock.now += LEASE_SECONDS / 2
    assert not await leader.keep()
    assert leader.problem is not None
    assert leader.problem.startswith(f"redis://127.0.0.1:{store.port}/0: ")
    assert "no controller decides without the lock" in leader.problem
    await leader.close()


async def test_an_invalid_configuration_stops_decisions_and_is_logged_once(folder: Path) -> None:
    clock = Clock(NOW)
    one = Controlled(folder, FileLeader(folder / "lock"), clock)
    assert await one.turn() == ["start"]
    before = (folder / "weights.yaml").read_text()
    rules = (folder / "rules.yaml").read_text()
    (folder / "rules.yaml").write_text(rules.replace("objectives", "objective"))
    clock.now += WINDOW
    for _ in range(2):
        assert await one.turn() == []
    refused = [values for _, event, values in one.events if event == "config_refused"]
    assert len(refused) == 1
    assert "rules.yaml:" in refused[0]["problems"][0]
    assert (folder / "weights.yaml").read_text() == before
    (folder / "rules.yaml").write_text(rules)
    assert await one.turn() == ["hold"]
    await one.leader.close()


def test_a_write_that_fails_leaves_the_file_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "weights.yaml"
    asyncio.run(SharedFile().write(path, {"r": ShareSection(to="new", percent=5)}))
    before, files = path.read_text(), sorted(folder.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsProblem, match=r"weights.yaml: cannot be written: No space left"):
        asyncio.run(SharedFile().write(path, {"r": ShareSection(to="new", percent=50)}))
    assert path.read_text() == before
    assert sorted(folder.iterdir()) == files


async def test_a_file_that_cannot_be_written_is_logged_and_tried_again(folder: Path) -> None:
    clock = Clock(NOW)
    one = Controlled(folder, FileLeader(folder / "lock"), clock)
    (folder / "weights.yaml").mkdir()
    assert await one.turn() == []
    assert await one.turn() == []
    assert [event[:2] for event in one.events].count(("error", "rollout_not_written")) == 1
    (folder / "weights.yaml").rmdir()
    assert await one.turn() == ["start"], "at once: a step back must not wait for another window"
    await one.leader.close()
