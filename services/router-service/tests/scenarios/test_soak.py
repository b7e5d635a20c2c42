"""Ten minutes of mixed streams, cancellations and dying engines: flat memory, no drift, no clean truncation."""

import os
import random
import statistics
import threading
import time

import pytest

pytestmark = [pytest.mark.service, pytest.mark.full, pytest.mark.timeout(1200)]

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
FAULTS = ("die_mid_stream", "clean_truncation", "error_event", "http_error")


def resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


@pytest.fixture(scope="module")
def sections():
    return {"decisions": {"ring": 500}}


@pytest.fixture(scope="module")
def step_seconds() -> float:
    return 0.002


def test_memory_stays_flat_and_no_truncation_looks_clean(rig, eventually) -> None:
    stop = time.monotonic() + SECONDS
    lock = threading.Lock()
    counts = {"whole": 0, "told": 0, "left": 0, "clean_truncation": 0}
    problems: list[str] = []

    def client(seed: int) -> None:
        dice = random.Random(seed)
        while time.monotonic() < stop:
            stream = dice.random() < 0.7
            leaves = dice.random() < 0.1
            try:
                kind = one_request(stream, leaves)
            except OSError as problem:
                problems.append(repr(problem))
                return
            with lock:
                counts[kind] += 1

    def one_request(stream: bool, leaves: bool) -> str:
        with rig.send(rig.body(stream=stream, max_tokens=30), headers="connection: close\r\n") as connection:
            if leaves:
                connection.recv(1024)
                return "left"
            data = b""
            while piece := connection.recv(65536):
                data += piece
        head = data.split(b"\r\n\r\n", 1)[0]
        if b" 200 " not in head.split(b"\r\n")[0] or (not data.endswith(b"0\r\n\r\n") and stream):
            return "told"
        return "whole" if not stream or b"data: [DONE]" in data else "clean_truncation"

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    memory: list[int] = []
    dice = random.Random(1)
    met = 0
    while time.monotonic() < stop:
        engine = rig.engines[dice.choice(list(rig.engines))]
        engine.fault(dice.choice(FAULTS), after_chunks=dice.randrange(20), count=3)
        time.sleep(0.5)
        memory.append(resident_kb(rig.router_pid))
    for thread in threads:
        thread.join(30)
    for engine in rig.engines.values():
        met += sum(engine.state()["fault_hits"].values())
        engine.heal()
    print(f"soak: {counts}, faults met: {met}, memory kB: first {memory[0]}, last {memory[-1]}")
    assert not problems
    assert met > 0
    assert counts["whole"] > 0
    assert counts["clean_truncation"] == 0
    eventually(lambda: rig.in_flight() == 0, "in flight is exactly 0")
    assert rig.metric("router_queue_length") == 0
    third = len(memory) // 3
    assert statistics.median(memory[-third:]) <= statistics.median(memory[third:-third]) * 1.03 + 1024
