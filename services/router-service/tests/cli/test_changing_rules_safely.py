"""docs/changing-rules-safely.md, run as it stands."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from router_service.config import load
from router_service.pipeline.dry_run import dry_run_idle

ROOT = Path(__file__).parents[4]
PAGE = ROOT / "docs" / "changing-rules-safely.md"
CONFIG = ROOT / "services" / "router-service" / "config"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "router.yaml").write_text((CONFIG / "local.yaml").read_text())
    (tmp_path / "rules.yaml").write_text((CONFIG / "rules.yaml").read_text())
    config = load(tmp_path / "router.yaml")
    lines = ['{"event":"started"}']
    for number, chars in enumerate((10, 2000, 5000)):
        body = {"messages": [{"role": "user", "content": "x" * chars}], "max_tokens": number + 1}
        record, _ = dry_run_idle(config, body, path="/v1/chat/completions", headers={}, client_id="c")
        record.request_id = f"request-{number}"
        lines.append(json.dumps(record.as_dict()))
    (tmp_path / "yesterday.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_worked_example_runs_and_shows_what_it_says(folder: Path) -> None:
    commands = [
        line.removeprefix("$ ")
        for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL)
        for line in block.splitlines()
    ]
    environment = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}
    done = {}
    for command in commands:
        done[command] = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    for command, result in done.items():
        assert result.returncode == (1 if "replay" in command else 0), (command, result.stderr)
    replayed = next(result.stdout for command, result in done.items() if "replay" in command)
    assert "3 requests: 2 as before, 1 different, 0 undecidable" in replayed
    assert "general (rule default) -> long-form (rule long_prompt)   e.g. request-1" in replayed
    decided = [json.loads(r.stdout)["rule"] for c, r in done.items() if " decide " in c]
    assert decided == ["default", "long_prompt"]
    assert load(folder / "router.yaml").hash == load(folder / "next" / "router.yaml").hash
