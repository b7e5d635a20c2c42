"""`make logs` follows every part across rotation and prints only complete lines."""

import io
import json
from pathlib import Path

from platform_tools.local_stack.commands import Follower
from platform_tools.local_stack.supervision import last_lines, readable


def line(event: str, **fields: object) -> str:
    return json.dumps({"time": "2026-11-24T01:02:03.456Z", "level": "info", "event": event, **fields}) + "\n"


def test_a_log_line_is_shown_as_time_level_event_and_the_rest() -> None:
    assert readable(line("started", port=8000)) == '01:02:03.456 info    started  {"port": 8000}'
    assert readable("no json") == "no json"


def test_new_lines_of_every_part_appear_with_its_name(tmp_path: Path) -> None:
    out = io.StringIO()
    (tmp_path / "router.jsonl").write_text(line("old"))
    follower = Follower(tmp_path, None, raw=False, out=out)
    with (tmp_path / "router.jsonl").open("a") as log:
        log.write(line("new"))
    (tmp_path / "edge.jsonl").write_text(line("first"))
    follower.step()
    shown = [text.split()[0] + " " + text.split()[-1] for text in out.getvalue().splitlines()]
    assert shown == ["router old", "edge first", "router new"]


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    out = io.StringIO()
    log = tmp_path / "router.jsonl"
    log.write_text("")
    follower = Follower(tmp_path, "router", raw=True, out=out)
    whole = line("slow")
    log.write_text(whole[:10])
    follower.step()
    assert out.getvalue() == ""
    log.write_text(whole)
    follower.step()
    assert out.getvalue() == whole


def test_rotation_loses_no_line_of_the_new_file(tmp_path: Path) -> None:
    out = io.StringIO()
    log = tmp_path / "router.jsonl"
    log.write_text(line("one") * 3)
    follower = Follower(tmp_path, None, raw=True, out=out, shown_at_first=0)
    log.rename(tmp_path / "router.jsonl.1")
    log.write_text(line("two"))
    follower.step()
    assert out.getvalue() == line("two")


def test_the_last_lines_of_a_log_that_is_not_there_say_so(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none.jsonl", 3) == ["(no log)"]
