"""`make up`, `status`, `demo` and `down` on the engine simulator, with and without faults."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.stacks.local import ROOT, Stack, new_stack
from harness.waiting import eventually
from platform_tools.local_stack.leftovers import find_leftovers

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(300)]


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A separate stack, not started; the fixture stops whatever the test leaves running."""
    stack = new_stack("sim", tmp_path / "run")
    yield stack
    stack.down()


def nothing_left(stack: Stack) -> bool:
    return not find_leftovers(stack.run_dir)


# -- a stack that runs ---------------------------------------------------------------------------


def test_every_part_is_ready_and_status_says_so(sim_stack: Stack) -> None:
    eventually(lambda: sim_stack.run("show-status").returncode == 0, "every part is ready", 60)
    rows = {row["part"]: row for row in json.loads(sim_stack.run("show-status", "--json").stdout)}
    assert {"edge", "router", "backend-a", "backend-b", "agent-a", "agent-b", "redis"} <= rows.keys()
    assert {"prometheus", "alertmanager"} <= rows.keys()
    for row in rows.values():
        assert row["state"] == "RUNNING"
        assert row["why"] is None


def test_status_gives_the_pid_of_the_process_that_listens(sim_stack: Stack) -> None:
    row = sim_stack.states()["router"]
    command = Path(f"/proc/{row['pid']}/cmdline").read_bytes().decode().split("\0")
    assert any(word.endswith("router-service") for word in command)


def test_a_reader_that_leaves_early_costs_status_no_traceback(sim_stack: Stack) -> None:
    process = subprocess.Popen(
        sim_stack.command("show-status"),
        env={**os.environ, **sim_stack.environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=60)
    assert said == b""
    assert process.returncode == -signal.SIGPIPE


def test_up_again_starts_nothing_anew(sim_stack: Stack) -> None:
    before = {name: row["pid"] for name, row in sim_stack.states().items()}
    again = sim_stack.run("start-stack")
    assert again.returncode == 0, again.stderr
    assert "every part was ready already" in again.stdout
    assert {name: row["pid"] for name, row in sim_stack.states().items()} == before


def test_the_tour_explains_each_answer_and_shows_both_refusals(sim_stack: Stack) -> None:
    tour = sim_stack.run("give-tour")
    assert tour.returncode == 0, tour.stdout + tour.stderr
    assert "rule     long_prompt" in tour.stdout
    assert "status 401" in tour.stdout
    assert "status 400" in tour.stdout
    assert tour.stdout.count("unexplained (signed)") == 2


def test_every_log_is_json_lines(sim_stack: Stack) -> None:
    logs = sorted((sim_stack.run_dir / "logs").glob("*.jsonl"))
    assert {"edge", "router", "redis", "prometheus", "backend-a"} <= {log.stem for log in logs}
    for log in logs:
        for line in log.read_bytes().splitlines():
            assert isinstance(json.loads(line), dict), log.name


def test_secrets_are_for_their_owner_only_and_in_no_log(sim_stack: Stack) -> None:
    for path in (sim_stack.run_dir / "client.env", sim_stack.run_dir / "edge" / "keys.yaml"):
        assert path.stat().st_mode & 0o077 == 0
    for log in (sim_stack.run_dir / "logs").glob("*.jsonl"):
        assert sim_stack.key not in log.read_text()


def test_the_load_client_has_a_key_of_its_own(sim_stack: Stack) -> None:
    environment = sim_stack.client_environment()
    assert environment["OPENAI_API_KEY_LOAD"] != environment["OPENAI_API_KEY"]
    answer = httpx.get(
        f"{sim_stack.edge}/v1/models",
        headers={"authorization": f"Bearer {environment['OPENAI_API_KEY_LOAD']}"},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("part", ["backend-a", "router", "redis"])
def test_a_killed_part_is_started_again_by_the_supervisor(sim_stack: Stack, part: str) -> None:
    old = sim_stack.states()[part]["pid"]
    os.kill(old, signal.SIGKILL)
    eventually(lambda: sim_stack.states()[part]["pid"] not in (0, old), "another process runs", 60)
    eventually(
        lambda: all(row["why"] is None for row in sim_stack.states().values()), "every part is ready", 60
    )


def test_every_ending_is_in_the_log_of_its_part(sim_stack: Stack) -> None:
    old = sim_stack.states()["pictures"]["pid"]
    os.kill(old, signal.SIGKILL)

    def ending() -> str:
        lines = (sim_stack.run_dir / "logs" / "pictures.jsonl").read_text().splitlines()
        documents = [json.loads(line) for line in lines if '"process ended"' in line]
        return next((one["ending"] for one in documents if one["pid"] == old), "")

    eventually(lambda: ending() == "terminated by SIGKILL", "the log says how it ended", 20)
    eventually(lambda: sim_stack.states()["pictures"]["why"] is None, "it runs again", 60)


def test_refused_files_of_the_router_are_shown(sim_stack: Stack) -> None:
    """The stack's ports are not the default ones, so the router reads a copy in the run folder."""
    copy = sim_stack.run_dir / "router" / "router.yaml"
    good = copy.read_text()
    copy.write_text(good + "bogus: 1\n")
    try:
        eventually(lambda: "bogus" in sim_stack.states()["router"]["note"], "the refusal is shown", 30)
        status = sim_stack.run("show-status")
        assert status.returncode == 0
        assert "refuses its files" in status.stdout
        assert f"{copy}:{len(good.splitlines()) + 1}:" in status.stdout
    finally:
        copy.write_text(good)
    eventually(lambda: sim_stack.states()["router"]["note"] == "", "no request is refused any more", 30)


def test_a_taken_port_leaves_the_running_stack_as_it_is(sim_stack: Stack) -> None:
    before = {name: row["pid"] for name, row in sim_stack.states().items()}
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = sim_stack.run("start-stack", PICTURES_PORT=str(port))
    assert done.returncode == 1
    assert f"port {port} (PICTURES_PORT, for pictures) is taken by process {os.getpid()}" in done.stderr
    assert {name: row["pid"] for name, row in sim_stack.states().items()} == before


# -- a stack that starts and stops -----------------------------------------------------------------


def test_down_leaves_no_process_and_no_port_even_after_the_supervisor_was_killed(own_stack: Stack) -> None:
    assert own_stack.run("start-stack").returncode == 0
    supervisor = int((own_stack.run_dir / "supervisord.pid").read_text())
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: nothing_left(own_stack), "nothing is left", 60)
    repaired = own_stack.run("start-stack")
    assert repaired.returncode == 0, repaired.stderr
    eventually(
        lambda: all(row["why"] is None for row in own_stack.states().values()), "every part is ready", 60
    )
    down = own_stack.down()
    assert down.returncode == 0
    assert "its ports are free" in down.stdout
    assert nothing_left(own_stack)
    status = own_stack.run("show-status")
    assert status.returncode == 1
    assert "the stack does not run" in status.stdout


def test_up_with_another_port_moves_the_running_stack(own_stack: Stack, tmp_path: Path) -> None:
    assert own_stack.run("start-stack").returncode == 0
    other = new_stack("sim", own_stack.run_dir).environment["EDGE_PORT"]
    moved = own_stack.run("start-stack", EDGE_PORT=other)
    assert moved.returncode == 0, moved.stderr
    assert httpx.get(f"http://127.0.0.1:{other}/healthz").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{own_stack.edge}/healthz")


def test_down_lets_an_answer_that_has_begun_end(own_stack: Stack) -> None:
    assert own_stack.run("start-stack", SIMULATOR_ARGUMENTS="--step-seconds 0.05").returncode == 0
    body = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": 60,
        "ignore_eos": True,
        "stream": True,
    }
    headers = {"authorization": f"Bearer {own_stack.key}"}
    with httpx.stream(
        "POST", f"{own_stack.edge}/v1/chat/completions", json=body, headers=headers, timeout=60
    ) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data:")
        stopping = subprocess.Popen(
            own_stack.command("stop-stack"), env={**os.environ, **own_stack.environment}, cwd=ROOT
        )
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert stopping.wait(120) == 0
    assert nothing_left(own_stack)


def test_down_without_a_stack_is_harmless(own_stack: Stack) -> None:
    assert own_stack.down().returncode == 0


# -- faults ------------------------------------------------------------------------------


def test_a_taken_port_is_named_with_its_process_and_variable_and_nothing_starts(own_stack: Stack) -> None:
    port = int(own_stack.environment["ROUTER_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        up = own_stack.run("start-stack")
    assert up.returncode == 1
    assert f"port {port} (ROUTER_PORT, for router) is taken by process {os.getpid()} (" in up.stderr
    assert "Traceback" not in up.stderr
    assert nothing_left(own_stack)


def test_a_bad_router_configuration_is_refused_with_its_line(own_stack: Stack, tmp_path: Path) -> None:
    good = (ROOT / "services/router-service/config/local.yaml").read_text()
    config = tmp_path / "router.yaml"
    config.write_text(good.replace("default_pool: general", "default_pool: generl"))
    (tmp_path / "rules.yaml").write_text((ROOT / "services/router-service/config/rules.yaml").read_text())
    line = next(i for i, text in enumerate(good.splitlines(), 1) if "default_pool" in text)
    up = own_stack.run("start-stack", ROUTER_CONFIG=str(config))
    assert up.returncode == 2
    assert re.search(rf"router\.yaml:{line}:\d+: .*generl", up.stderr), up.stderr
    assert nothing_left(own_stack)


def test_an_engine_that_dies_at_its_start_shows_its_last_words(own_stack: Stack) -> None:
    # SIMULATOR_ARGUMENTS reach only the engines, so a wrong argument makes an engine fail at start.
    up = own_stack.run("start-stack", SIMULATOR_ARGUMENTS="--no-such-option")
    assert up.returncode == 1
    assert "backend-a ended while it was starting" in up.stderr or "backend-b ended" in up.stderr
    assert "no-such-option" in up.stderr
    assert nothing_left(own_stack)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_up_stops_everything(own_stack: Stack, number: signal.Signals) -> None:
    child = subprocess.Popen(
        own_stack.command("start-stack"),
        # Warming takes half a minute at this speed, so the signal arrives while the stack is starting.
        env={**os.environ, **own_stack.environment, "SIMULATOR_ARGUMENTS": "--step-seconds 2"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    eventually(lambda: len(find_leftovers(own_stack.run_dir)) > 5, "the stack is starting", 60)
    child.send_signal(number)
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 130, said
    assert "everything that was started has been stopped" in said
    assert nothing_left(own_stack)
