"""One format of time, one measure of free memory, one name for each part and state."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend_agent.judgement import State as AgentState
from observability.dashboards.charts import state_colour
from platform_contracts.backend_states import NOT_WORKING, BackendState
from platform_contracts.free_memory import available_bytes
from platform_contracts.ledger_parts import LABELS, LEDGER_PARTS, parts_of
from platform_contracts.log_lines import TIME_PATTERN, add_time, log_line, timestamp
from platform_contracts.yaml_document import read
from platform_tools.local_stack.keep_process import wrap
from router_service.accounting.ledger import Stamps, ledger
from router_service.routing.vocabulary import State as RouterState

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("at", [0.0, 1_795_600_000.0, 1_795_600_000.5, 1_795_600_000.000001])
def test_a_timestamp_always_has_microseconds_and_ends_in_z(at: float) -> None:
    text = timestamp(at)
    assert re.fullmatch(TIME_PATTERN, text)
    assert datetime.fromisoformat(text).timestamp() == pytest.approx(at, abs=1e-6)


def test_every_writer_of_log_lines_has_the_same_format_of_time() -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)  # no microseconds: some writers leave them out
    written = [
        json.loads(log_line("edge-gateway", "info", "starting"))["time"],
        add_time(None, "info", {})["time"],
        json.loads(wrap(b"INFO ready", "engine", moment))["time"],
    ]
    for text in written:
        assert re.fullmatch(TIME_PATTERN, text), text
    # Envoy writes its own: %6f are microseconds.
    assert "%S.%6fZ" in (ROOT / "services/edge-gateway/envoy/access_log.yaml").read_text()


def test_nobody_formats_the_time_of_a_log_line_by_himself() -> None:
    found = subprocess.run(
        ["git", "grep", "-lE", r"TimeStamper|isoformat\(timespec|%Y-%m-%dT", "--", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    allowed = {
        "libraries/platform-contracts/src/platform_contracts/log_lines.py",
        "libraries/platform-contracts/tests/test_contracts.py",
        "tests/chaos/test_limits.py",
        # Runs without site-packages (python -I -S).
        "tools/platform-tools/src/platform_tools/local_stack/keep_process.py",
    }
    assert set(found) <= allowed


def test_router_and_agent_have_the_same_states() -> None:
    assert AgentState is BackendState
    assert RouterState is BackendState
    assert set(BackendState) > NOT_WORKING
    assert {state for state in BackendState if state_colour(state) == "#8c8c8c"} == {"unknown"}


def test_every_part_of_the_ledger_has_one_label_and_one_owner() -> None:
    assert len(LABELS) == len(LEDGER_PARTS)
    assert parts_of("router") == {"router", "router_queue", "relay"}
    assert parts_of("edge", "router", "network", "engine", "nobody") == set(LABELS)


def test_a_containers_limit_counts_and_cached_files_are_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100\nactive_file 50\n")
    assert available_bytes(tmp_path) == 750


def test_a_limit_of_the_first_cgroup_version_counts_too(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("3000\n")
    (folder / "memory.usage_in_bytes").write_text("2500\n")
    (folder / "memory.stat").write_text("cache 1\ninactive_file 400\n")
    assert available_bytes(tmp_path) == 900


def test_without_a_limit_the_machines_memory_counts(tmp_path: Path) -> None:
    machine = available_bytes(tmp_path)
    assert machine > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("inactive_file 400\n")
    assert available_bytes(tmp_path) > 1 << 20


def test_a_mistake_is_placed_at_its_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("pools:\n  general:\n    policy: fastest\n")
    document = read(path)
    document.problem(("pools", "general", "policy"), "is no policy")
    assert [str(one) for one in document.problems] == [f"{path}:3:13: pools.general.policy: is no policy"]


def test_a_launcher_imports_what_it_needs_before_anything_is_installed() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tools/platform-tools/src');"
        "import platform_tools.checkout; import platform_contracts.free_memory, platform_contracts.log_lines,"
        "platform_contracts.backend_states, platform_contracts.ledger_parts; print('ok')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "ok\n", done.stderr


def test_the_ledger_of_the_router_has_these_parts_and_no_other() -> None:
    stamps = Stamps(
        edge_start=1.0, received_epoch=1.1, received=0.0, queued_seconds=0.1, attempts_began=0.2, attempt_began=0.4,
        connected=0.5, sent=0.6, first_byte=1.0, first_written=1.1, retried=True, round_trip_seconds=0.01,
        held_seconds=0.05,
    )  # fmt: skip
    found = set(ledger(stamps, None, None).parts) | set(ledger(stamps, 1.0, 2.0).parts)
    assert found == set(LABELS)
