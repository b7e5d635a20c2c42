"""Each change that a router notices has one log line and one count; a quiet router has none."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.servers.router_fleet import RouterPart, fleet_in
from harness.waiting import eventually

pytestmark = pytest.mark.service


def changes(router: RouterPart) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in router.log_lines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "change"]


def one(router: RouterPart, since: int, kind: str, **fields: Any) -> dict[str, Any]:
    """Wait for a change of this kind after the first ``since``."""

    def found() -> dict[str, Any] | None:
        fits = [c for c in changes(router)[since:] if c["kind"] == kind and fields.items() <= c.items()]
        return fits[0] if fits else None

    change: dict[str, Any] = eventually(found, f"a change {kind} {fields} is logged")
    return change


def test_each_change_is_one_line_and_one_count(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        first, second = fleet.add_engine("one"), fleet.add_engine("two")
        redis = fleet.add_redis()
        rules = tmp_path / "rules.yaml"
        rules.write_text(
            yaml.safe_dump(
                {"rules": [{"name": "long", "when": {"max_tokens_gte": 9}, "route_to": "general"}]}
            )
        )
        routing = {"default_pool": "general", "rules_file": "rules.yaml"}
        router = fleet.add_router(routing=routing)
        for _ in range(3):
            assert router.post().status_code == 200
        time.sleep(1.0)
        began = len(changes(router))
        # Backends may become ready after the first look; nothing else may have changed.
        assert {c["kind"] for c in changes(router)} <= {"backend_state"}

        second.kill()
        one(router, began, "backend_state", backend="two", before="ready", after="unreachable")
        second.start()
        one(router, began, "backend_state", backend="two", after="ready")
        redis.end()
        eventually(lambda: router.post(headers={"x-session-id": "s"}).status_code == 200, "an answer")
        one(router, began, "affinity_store", before="up", after="lost")

        rules.write_text(yaml.safe_dump({"rules": [
            {"name": "long", "when": {"max_tokens_gte": 10}, "route_to": "general"},
            {"name": "new", "when": {"max_tokens_gte": 5}, "route_to": "general"},
        ]}))  # fmt: skip
        change = one(
            router, began, "configuration", rules_added=["new"], rules_changed=["long"], rules_removed=[]
        )
        assert change["before"] != change["after"]

        del fleet.engines["two"]
        fleet.rewrite(router, routing=routing)
        one(router, began, "backend_left", backend="two")
        fleet.engines["two"] = second
        fleet.rewrite(router, routing=routing)
        one(router, began, "backend_joined", backend="two")

        first.fault("http_error", status=503)
        for _ in range(20):
            router.post()
        one(router, began, "breaker", backend="one", before="closed", after="open")

        def counted() -> float:
            kinds = {c["kind"] for c in changes(router)}
            return sum(router.metric("router_changes_total", kind=kind) for kind in kinds)

        # A further change may come between the two looks.
        eventually(lambda: counted() == len(changes(router)), "as many changes are counted as logged")


def test_a_quiet_router_logs_no_change(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        fleet.add_engine("one")
        router = fleet.add_router()
        began = len(changes(router))
        for _ in range(30):
            assert router.post().status_code == 200
        time.sleep(2.0)
        assert changes(router)[began:] == []
