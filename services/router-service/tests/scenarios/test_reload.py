"""A configuration that changes under load is validated first and swapped as a whole."""

import concurrent.futures
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.servers.router_fleet import BIN, MODEL, Fleet, RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service

RULES = {
    "to_first": {"rules": [{"name": "to_first", "when": {"stream": False}, "route_to": "first"}]},
    "to_second": {"rules": [{"name": "to_second", "when": {"stream": False}, "route_to": "second"}]},
}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("engine-a", "--step-seconds", "0.002")
        fleet.add_engine("engine-b", "--step-seconds", "0.002")
        yield fleet


def pools(fleet: Fleet) -> dict[str, Any]:
    return {
        "first": {"models": [MODEL], "backends": {"engine-a": {"url": fleet.engines["engine-a"].url}}},
        "second": {"models": [MODEL], "backends": {"engine-b": {"url": fleet.engines["engine-b"].url}}},
    }


def write_rules(fleet: Fleet, text: str) -> None:
    new = fleet.folder / "rules.new"
    new.write_text(text)
    new.replace(fleet.folder / "rules.yaml")


def router_with_rules(fleet: Fleet, name: str) -> RouterPart:
    write_rules(fleet, yaml.safe_dump(RULES[name]))
    router = fleet.add_router(
        wait_usable=0,
        pools=pools(fleet),
        routing={"default_pool": "first", "rules_file": "rules.yaml"},
        limits={"max_in_flight_per_backend": 500},
    )
    eventually(lambda: router.usable("first") + router.usable("second") == 2, "both pools are usable")
    return router


def config_hash(router: RouterPart) -> str:
    (line,) = (line for line in router.exposition().splitlines() if line.startswith("router_config_info{"))
    return line.split('"')[1]


def test_reloading_under_load_drops_nothing_and_decides_nothing_half_old(fleet: Fleet) -> None:
    router = router_with_rules(fleet, "to_first")
    hashes = {"to_first": config_hash(router)}
    stop = threading.Event()

    def load() -> list[tuple[int, str]]:
        answers = []
        while not stop.is_set():
            answer = router.post()
            answers.append((answer.status_code, answer.headers["x-request-id"]))
        return answers

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        loads = [threads.submit(load) for _ in range(4)]
        try:
            for turn in range(6):
                name = ("to_second", "to_first")[turn % 2]
                before = config_hash(router)
                write_rules(fleet, yaml.safe_dump(RULES[name]))
                eventually(lambda before=before: config_hash(router) != before, "the new rules are in use")
                hashes[name] = config_hash(router)
                time.sleep(0.3)
        finally:
            stop.set()
        answers = [answer for load in loads for answer in load.result()]
    assert len(answers) > 50
    assert {status for status, _ in answers} == {200}
    records = [json.loads(line) for line in router.log_lines() if '"event":"request"' in line]
    seen = {(record["config_hash"], record["rule"], record["attempts"][0]["backend"]) for record in records}
    assert seen == {
        (hashes["to_first"], "to_first", "engine-a"),
        (hashes["to_second"], "to_second", "engine-b"),
    }


def test_a_bad_file_changes_nothing_and_says_where_it_is_bad(fleet: Fleet) -> None:
    router = router_with_rules(fleet, "to_second")
    good = config_hash(router)
    write_rules(fleet, "rules:\n  - name: x\n    when: {max_token_gte: 5}\n    route_to: nowhere\n")
    eventually(lambda: router.metric("router_config_last_reload_successful") == 0, "the metric says so")
    assert router.post().headers["x-route-rule"] == "to_second"
    assert config_hash(router) == good
    (line,) = eventually(
        lambda: [line for line in router.log_lines() if '"config_refused"' in line], "the log says why"
    )
    text = "\n".join(json.loads(line)["problems"])
    assert "rules.yaml:3:" in text
    assert "did you mean max_tokens_gte" in text
    assert "rules.yaml:4:" in text
    write_rules(fleet, yaml.safe_dump(RULES["to_first"]))
    eventually(lambda: router.metric("router_config_last_reload_successful") == 1, "good again")
    assert router.post().headers["x-route-rule"] == "to_first"


def test_a_bad_file_at_the_start_is_exit_code_2_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(
        "pools:\n  p: {models: [m], backends: {a: {url: http://a}}}\nroutin: {}\n"
    )
    done = subprocess.run(
        [BIN / "router-service", "serve", "--config", tmp_path / "router.yaml"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "router.yaml:3:" in done.stderr
    assert "did you mean routing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_map_swapped_by_a_symbolic_link_is_seen(fleet: Fleet, tmp_path: Path) -> None:
    """A mounted ConfigMap is a link to a link: `..data` is replaced, and the link in the folder never changes."""
    mount = tmp_path / "mount"
    mount.mkdir()

    def publish(version: str, rules: dict[str, Any]) -> None:
        folder = mount / version
        folder.mkdir()
        values = fleet.configuration(
            router.port if router else 0,
            pools=pools(fleet),
            routing={"default_pool": "first", "rules_file": "rules.yaml"},
        )
        (folder / "router.yaml").write_text(yaml.safe_dump(values))
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        os.symlink(version, mount / "..data_tmp")
        os.replace(mount / "..data_tmp", mount / "..data")

    router: RouterPart | None = None
    router = fleet.add_router(wait_usable=0, pools=pools(fleet), routing={"default_pool": "first"})
    router.end()
    publish("..v1", RULES["to_first"])
    for name in ("router.yaml", "rules.yaml"):
        os.symlink(f"..data/{name}", mount / name)
    router.command[-1] = mount / "router.yaml"
    router.start()
    eventually(lambda: router.usable("first") == 1, "the first pool is usable")
    eventually(lambda: router.usable("second") == 1, "the second pool is usable")
    assert router.post().headers["x-route-rule"] == "to_first"
    publish("..v2", RULES["to_second"])
    eventually(lambda: router.post().headers["x-route-rule"] == "to_second", "the swap was seen")


def series_of(router: RouterPart, backend: str) -> list[str]:
    """Return the series of a backend, without the changes that it had: those stay for ten minutes."""
    lines = (line for line in router.exposition().splitlines() if f'backend="{backend}"' in line)
    return [line for line in lines if not line.startswith("router_change_time_seconds")]


def test_a_backend_that_is_removed_takes_its_series_with_it(fleet: Fleet) -> None:
    router = fleet.add_router()
    backends = {router.post().headers["x-route-backend"] for _ in range(6)}
    assert backends == {"engine-a", "engine-b"}
    assert 'backend="engine-b"' in router.exposition()
    del fleet.engines["engine-b"]
    fleet.rewrite(router)
    eventually(lambda: not series_of(router, "engine-b"), "no series of it is left")
    assert 'backend="engine-a"' in router.exposition()


def test_requests_that_end_after_their_backend_was_removed_bring_none_of_its_series_back(
    fleet: Fleet,
) -> None:
    """Otherwise every pod that is removed while it works leaves its series until the router ends."""
    router = fleet.add_router()
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(router.post, max_tokens=1000) for _ in range(4)]
        eventually(lambda: router.metric("router_in_flight", backend="engine-b") >= 1, "it works")
        del fleet.engines["engine-b"]
        fleet.rewrite(router)
        gauge = 'router_in_flight{backend="engine-b"}'
        eventually(lambda: gauge not in router.exposition(), "it is removed")
        assert not all(one.done() for one in asked), "requests are still under way"
        answers = [one.result() for one in asked]
    assert {answer.status_code for answer in answers} == {200}
    assert "engine-b" in {answer.headers["x-route-backend"] for answer in answers}
    eventually(
        lambda: router.metric("router_backend_requests_total", backend="engine-a") >= 1, "all are counted"
    )
    assert series_of(router, "engine-b") == [], "no series of it is left"
