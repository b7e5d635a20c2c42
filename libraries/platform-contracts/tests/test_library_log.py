"""Warnings of libraries are JSON log lines in every service, as its own lines are."""

import json
import subprocess
import sys

import pytest

# What asyncio prints when a cancelled caller leaves a lookup behind that fails later.
ORPHAN = """
import asyncio, gc

async def leave_a_failed_future():
    asyncio.get_running_loop().create_future().set_exception(OSError("name not found"))
    gc.collect()

asyncio.run(leave_a_failed_future())
"""
CONFIGURED = {
    "rate-limit-service": "from rate_limit_service.main import _log_as_json; _log_as_json()",
    "backend-agent": "from backend_agent.telemetry import configure_log; configure_log()",
    "console": (
        "import uvicorn; uvicorn.run = lambda *_, **options: print(end='' if options['log_config'] is None else 'no')\n"
        "from console.main import main; main(['serve'])"
    ),
    "router": (
        "from pathlib import Path; from platform_contracts.log_lines import log_line\n"
        "class Router:\n"
        "    asgi = None\n"
        "    def log(self, level, event, **fields):\n"
        "        print(log_line('router', level, event, **fields))\n"
        "from router_service.lifecycle import Lifecycle; Lifecycle(Router(), '127.0.0.1', 1)"
    ),
}


@pytest.mark.parametrize("service", CONFIGURED)
def test_a_failed_future_that_nobody_awaits_is_one_json_line(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED[service] + ORPHAN],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    assert [(line["service"], line["event"], line["logger"]) for line in lines] == [
        (service, "library", "asyncio")
    ]
    assert lines[0]["exception"] == "OSError: name not found"
