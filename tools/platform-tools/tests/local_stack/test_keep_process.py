"""The keeper of each process: JSON logs of bounded size, and no process that outlives its owner."""

import json
import os
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import platform_tools.local_stack.keep_process as keep_process
from harness.waiting import eventually
from platform_tools.local_stack.keep_process import BoundedLog, Lines, wrap

NOW = datetime(2026, 11, 24, 1, 2, 3, 456000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (b"INFO 11-24 01:02:03 [api_server.py:10] Starting", "info"),
        (b"(EngineCore pid=7) ERROR 11-24 01:02:03 [core.py:10] boom", "error"),
        (b'ts=2026-11-24T01:02:03Z caller=main.go:1 level=warn msg="x"', "warning"),
        (b"12:M 24 Nov 2026 01:02:03.456 * Ready to accept connections", "info"),
    ],
)
def test_a_plain_line_becomes_a_json_object_with_its_level(line: bytes, level: str) -> None:
    assert json.loads(wrap(line, "engine", NOW)) == {
        "time": "2026-11-24T01:02:03.456000Z",
        "level": level,
        "service": "engine",
        "event": line.decode(),
    }


def test_a_json_line_stays_byte_for_byte() -> None:
    line = b'{"event": "started", "odd":   1}'
    assert wrap(line, "router", NOW) == line


def test_bytes_that_are_no_text_still_make_a_json_line() -> None:
    assert json.loads(wrap(b"\xff\x00\xfe", "redis", NOW))["service"] == "redis"


def test_lines_are_put_together_across_reads(tmp_path: Path) -> None:
    log = tmp_path / "part.jsonl"
    lines = Lines(BoundedLog(str(log), 1 << 20), "part")
    lines.feed(b"first half, ")
    lines.feed(b"second half\nunfinished")
    lines.finish()
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()] == [
        "first half, second half",
        "unfinished",
    ]


def test_a_log_never_takes_more_than_twice_its_bound(tmp_path: Path) -> None:
    log = tmp_path / "part.jsonl"
    bounded = BoundedLog(str(log), 1000)
    for number in range(200):
        bounded.write(b"%050d\n" % number)
    assert log.stat().st_size <= 1000
    assert (tmp_path / "part.jsonl.1").stat().st_size <= 1000
    assert log.read_bytes().splitlines()[-1] == b"%050d" % 199


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def spec(tmp_path: Path, command: list[str], **more: Any) -> Path:
    path = tmp_path / "spec.json"
    document = {
        "service": "part",
        "command": command,
        "env": {"GREETING": "hello"},
        "cwd": str(tmp_path),
        "log": str(tmp_path / "part.jsonl"),
        "max_bytes": 1 << 20,
        "stop_seconds": 1.0,
        "ends_with_parent": True,
        **more,
    }
    path.write_text(json.dumps(document))
    return path


KEEPER = [sys.executable, "-I", "-S", keep_process.__file__]


def events(tmp_path: Path) -> list[str]:
    log = tmp_path / "part.jsonl"
    return [json.loads(line)["event"] for line in log.read_text().splitlines()] if log.exists() else []


def test_the_process_itself_answers_signals_and_gives_its_own_exit_code(tmp_path: Path) -> None:
    script = "trap 'echo bye; exit 7' TERM; echo $GREETING $$; while :; do sleep 0.05; done"
    child = subprocess.Popen([*KEEPER, str(spec(tmp_path, ["sh", "-c", script]))])
    eventually(lambda: events(tmp_path), "it says that it started")
    assert events(tmp_path)[0] == f"hello {child.pid}"
    child.terminate()
    assert child.wait(20) == 7
    eventually(lambda: "process ended" in events(tmp_path), "it says that the process ended")
    assert "bye" in events(tmp_path)


def test_children_that_a_killed_process_leaves_behind_are_ended(tmp_path: Path) -> None:
    script = "sleep 1000 & echo $!; wait"
    child = subprocess.Popen([*KEEPER, str(spec(tmp_path, ["sh", "-c", script]))])
    eventually(lambda: events(tmp_path), "it says that it started")
    left_behind = int(events(tmp_path)[0])
    assert lives(left_behind)
    child.kill()
    child.wait(20)
    eventually(lambda: not lives(left_behind), "what the process left is gone")


@pytest.mark.parametrize("deaf", [False, True], ids=["obedient", "ignores SIGTERM"])
def test_a_process_does_not_outlive_its_supervisor(tmp_path: Path, deaf: bool) -> None:
    trap = "trap '' TERM; " if deaf else ""
    path = spec(tmp_path, ["sh", "-c", f"{trap}echo $$; while :; do sleep 0.05; done"])
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({[*KEEPER, str(path)]!r})"]
    )
    eventually(lambda: events(tmp_path), "it says that it started")
    orphan = int(events(tmp_path)[0])
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(20)
    eventually(lambda: not lives(orphan), "the orphan is gone")


SUPERVISOR_LOG = """\
{"event": "2026-11-28 16:35:46,123 INFO spawned: 'part' with pid 11"}
{"event": "2026-11-28 16:35:47,123 WARN exited: part (exit status 3; not expected)"}
{"event": "2026-11-28 16:35:48,123 INFO spawned: 'part' with pid 112"}
{"event": "2026-11-28 16:35:48,200 WARN exited: part-b (exit status 9; not expected)"}
{"event": "2026-11-28 16:35:49,123 WARN stopped: part (terminated by SIGKILL)"}
"""


@pytest.mark.parametrize(
    ("service", "pid", "ending"),
    [
        ("part", 11, "exit status 3"),
        ("part", 112, "terminated by SIGKILL"),
        ("part", None, "terminated by SIGKILL"),
        ("part", 1, ""),
        ("part-b", None, "exit status 9"),
        ("other", None, ""),
    ],
)
def test_how_a_process_ended_is_read_from_the_supervisors_log(
    tmp_path: Path, service: str, pid: int | None, ending: str
) -> None:
    (tmp_path / "supervisor.jsonl").write_text(SUPERVISOR_LOG)
    assert keep_process.logged_ending(str(tmp_path / "supervisor.jsonl"), service, pid) == ending


def test_every_ending_is_logged_with_its_exit_code(tmp_path: Path) -> None:
    """Run under the real supervisor: a part that fails, one that succeeds, one that is killed."""
    log = tmp_path / "supervisor.jsonl"
    programs = {"fails": "exit 3", "ends": "exit 0", "is-killed": "kill -9 $$"}
    config = [
        "[supervisord]",
        "nodaemon=true",
        "logfile=/dev/null",
        "logfile_maxbytes=0",
        "pidfile=%(here)s/pid",
    ]
    for name, script in programs.items():
        document = {"service": name, "log": str(tmp_path / f"{name}.jsonl"), "supervisor_log": str(log)}
        path = spec(tmp_path, ["sh", "-c", script], **document).rename(tmp_path / f"{name}.json")
        config += [f"[program:{name}]", f"command={shlex.join([*KEEPER, str(path)])}", "autorestart=false"]
    (tmp_path / "supervisord.conf").write_text("\n".join(config) + "\n")
    supervisord = Path(sys.executable).with_name("supervisord")
    own = {"service": "supervisor", "log": str(log), "ends_with_parent": False}
    own_spec = spec(tmp_path, [str(supervisord), "-n", "-c", str(tmp_path / "supervisord.conf")], **own)
    child = subprocess.Popen([*KEEPER, str(own_spec)])

    def ended(name: str) -> dict[str, Any]:
        path = tmp_path / f"{name}.jsonl"
        documents = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return next((one for one in documents if one["event"] == "process ended"), {})

    try:
        eventually(lambda: all(ended(name) for name in programs), "each part's end is logged")
    finally:
        child.terminate()
        child.wait(20)
    assert {name: (ended(name)["ending"], ended(name)["level"]) for name in programs} == {
        "fails": ("exit status 3", "error"),
        "ends": ("exit status 0", "info"),
        "is-killed": ("terminated by SIGKILL", "error"),
    }


def test_a_program_that_is_not_there_is_named_in_the_log(tmp_path: Path) -> None:
    child = subprocess.Popen([*KEEPER, str(spec(tmp_path, ["no-such-program"]))])
    assert child.wait(20) == 127
    eventually(lambda: "process ended" in events(tmp_path), "it says that the process ended")
    assert any("cannot start no-such-program" in event for event in events(tmp_path))
