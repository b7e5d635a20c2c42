"""Replays recent records by other rules, in a process with limits of time and memory. Changes nothing.

The process is the command `router-service replay`, so that the page and the command agree.
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request

MAX_RULES_BYTES = 512 * 1024
MAX_BODY_BYTES = 3 * MAX_RULES_BYTES + 1024
"""A form may write a character as three."""
MOST_RECORDS = 2000
SECONDS = 10.0
MEMORY_BYTES = 512 * 1024 * 1024
RULES_FILE = "rules.yaml"


class CannotReplay(Exception):
    """The replay was not possible; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Move:
    """Requests that would go from one pool and rule to another, with some of their ids."""

    count: int
    before: Mapping[str, str]
    after: Mapping[str, str]
    examples: Sequence[str]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Result of a replay: the mistakes of the rules, or what would move."""

    problems: Sequence[str] = ()
    total: int = 0
    same: int = 0
    cannot_tell: int = 0
    moves: Sequence[Move] = ()
    newly_refused: Mapping[str, int] = field(default_factory=dict)


class Replayer:
    """Runs one replay at a time."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def run(
        self, rules: str, routing: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> Replayed:
        """Replay ``records`` by ``rules`` and the router's ``routing`` sections.

        Raises:
            CannotReplay: there is no record, another replay runs, or this one exceeds its limits.
        """
        if not records:
            raise CannotReplay("no router has a decision record yet; send requests first")
        if self._one.locked():
            raise CannotReplay("another replay runs; try again in some seconds")
        async with self._one:
            with tempfile.TemporaryDirectory(prefix="replay-") as name:
                folder = Path(name)
                await asyncio.to_thread(_write, folder, rules, routing, records)
                code, out, said = await _run(folder)
        if code not in (0, 1):
            lines = [line for line in said.splitlines() if not line.startswith("compared with ")]
            problems = [line.removeprefix(f"{folder}{os.sep}") for line in lines if str(folder) in line]
            if not problems:
                raise CannotReplay("the replay failed: " + ("; ".join(lines[-3:]) or f"exit code {code}"))
            return Replayed(problems)
        try:
            document = json.loads(out)
        except ValueError:  # Code 1 without a result: Python ended with an exception.
            last = next(reversed(said.splitlines()), "")
            if "MemoryError" in said:
                last = f"these rules need more than {MEMORY_BYTES // 1024**2} MiB of memory"
            raise CannotReplay("the replay failed: " + (last or f"exit code {code}")) from None
        return _result(document)


async def read_rules(request: Request) -> str:
    """Return the field `rules` of a form.

    Raises:
        CannotReplay: the form is too large, of another site, or has no rules.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise CannotReplay("the form was sent by another site")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise CannotReplay(f"the rules are larger than {MAX_RULES_BYTES // 1024} KiB")
    fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
    rules = (fields.get("rules") or [""])[0].replace("\r\n", "\n")
    if not rules.strip():
        raise CannotReplay("rules: empty; paste the contents of a rules file")
    if len(rules.encode()) > MAX_RULES_BYTES:
        raise CannotReplay(f"the rules are larger than {MAX_RULES_BYTES // 1024} KiB")
    return rules


def _write(
    folder: Path, rules: str, routing: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> None:
    unused = {"unused": {"url": "http://127.0.0.1:9"}}
    config = {name: section for name, section in routing.items() if name != "config_hash"}
    config["pools"] = {name: {**pool, "backends": unused} for name, pool in config["pools"].items()}
    config["routing"] = {**config["routing"], "rules_file": RULES_FILE}
    (folder / "router.yaml").write_text(json.dumps(config))
    (folder / RULES_FILE).write_text(rules)
    with (folder / "records.jsonl").open("w") as lines:
        for record in records:
            lines.write(json.dumps({**record, "event": "request"}) + "\n")


async def _run(folder: Path) -> tuple[int, str, str]:
    command = [
        *(sys.executable, "-m", "router_service.cli", "replay", "--json"),
        *("--config", str(folder / "router.yaml"), str(folder / "records.jsonl")),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    try:
        _limit(process.pid)
        async with asyncio.timeout(SECONDS):
            out, said = await process.communicate()
    except TimeoutError:
        raise CannotReplay(
            f"the replay took longer than {SECONDS:.0f} s; use router-service replay on the router's log"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode("utf-8", "replace"), said.decode("utf-8", "replace")


def _limit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.setpriority(os.PRIO_PROCESS, pid, 10)
    # If the pod runs out of memory, the kernel ends the replay and not the console.
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _result(document: Mapping[str, Any]) -> Replayed:
    moves = [
        Move(move["count"], move["from"], move["to"], move["examples"]) for move in document["moves"][:200]
    ]
    return Replayed(
        (), document["total"], document["same"], document["cannot_tell"], moves, document["newly_refused"]
    )
