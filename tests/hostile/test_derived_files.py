"""Attack: texts that a client hides in its requests, looked for in everything that commands make of the router's log."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.attacks.bodies import CANARY
from harness.stacks.attacked import Attacked

pytestmark = pytest.mark.service

BIN = Path(sys.executable).parent
REQUESTS = 5


def test_no_text_of_a_client_is_in_what_commands_make_of_the_log(attacked: Attacked, tmp_path: Path) -> None:
    ids = []
    for number in range(REQUESTS):
        said = f"{CANARY} {number} " * 50
        body = {"model": "m", "messages": [{"role": "user", "content": said}], "max_tokens": 3, "stream": True,
                "user": CANARY, "prompt_cache_key": CANARY, "metadata": {"user_id": CANARY}, "ignore_eos": True}  # fmt: skip
        answer = attacked.post(
            "fast", body, x_session_id=f"{CANARY}-{number}", session_id=CANARY, user_agent=CANARY
        )
        assert answer.status_code == 200
        ids.append(answer.headers["x-request-id"])
    assert attacked.post("fast", {**body, "model": CANARY}).status_code == 404
    assert attacked.edge.post(body, key=f"sk-{CANARY}-0123456789abcdef0123456789").status_code == 401
    for one in ids:
        attacked.record(one)
    workload, log = tmp_path / "workload.yaml", attacked.router_log
    made = [
        command("load-testing", "from-records", log, "--out", workload),
        command("router-service", "explain", ids[0], "--log", log),
        command("router-service", "replay", "--config", attacked.directory / "router.yaml", log),
        workload.read_text(),
    ]
    assert all(made), "every command wrote something"
    assert ids[0] in made[1]
    for text in made:
        assert CANARY.lower() not in text.lower()


def command(name: str, *words: object) -> str:
    """Run a command of the platform and return all its output."""
    done = subprocess.run(
        [BIN / name, *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + done.stderr
