"""Attack: megabytes of text in every place that a client chooses, to fill records, logs, metrics and errors."""

import json
import time

import httpx
import pytest

from harness.attacks.bodies import CANARY, CHAT_BODY, LONG, long_texts
from harness.clients.raw_http import exchange
from harness.servers.edges import CHAT
from harness.stacks.attacked import ATTACK_SECONDS, KEYS, MIB, Attacked, unharmed_neighbour

pytestmark = pytest.mark.service


def test_text_of_megabytes_is_bounded_in_edge_and_router(attacked: Attacked) -> None:
    """Through the edge and, like a neighbour pod would, past it at the router itself."""
    edge_before, router_before = attacked.edge_bytes(), attacked.router_bytes()
    sent = 0
    statuses: set[int] = set()
    with unharmed_neighbour(attacked, "text"), httpx.Client(timeout=30) as client:
        began = time.monotonic()
        while time.monotonic() - began < ATTACK_SECONDS or sent < 40:
            for body in long_texts():
                for url, headers in (
                    (attacked.edge.url, attacked.headers("fast")),
                    (attacked.router, {"content-type": "application/json"}),
                ):
                    statuses.add(client.post(url + CHAT, content=body, headers=headers).status_code)
                    sent += 1
                    time.sleep(0.1)
    edge_grown, router_grown = attacked.edge_bytes() - edge_before, attacked.router_bytes() - router_before
    print(f"{sent} requests of 4 MB; edge +{edge_grown // MIB} MiB, router +{router_grown // MIB} MiB")
    assert {400, 404} <= statuses, "the attack must have happened: names were refused in both places"
    assert edge_grown < 160 * MIB
    assert router_grown < 160 * MIB
    records = httpx.get(f"{attacked.router}/debug/decisions?limit=1000", timeout=30).content
    assert len(records) < 16 * MIB
    for where in (attacked.router_log.read_bytes(), attacked.edge.log.read_bytes(), records):
        assert b"CaNaRyTeXt" not in where
        assert max(len(line) for line in where.splitlines()) < MIB


@pytest.mark.parametrize("name", ["x-session-id", "x-request-id", "traceparent", "user-agent", "x-canary"])
def test_a_header_of_kilobytes_reaches_no_signal(attacked: Attacked, name: str) -> None:
    """15 KiB pass the edge's bound for headers; they appear in no log and no record."""
    answer = attacked.post("fast", CHAT_BODY, **{name: f"{CANARY}-{LONG[: 15 * 1024]}"})
    assert answer.status_code == 200
    record = attacked.record(answer.headers["x-request-id"])
    entry = attacked.edge.access_line(answer.headers["x-request-id"])
    assert CANARY not in json.dumps(record)
    assert len(json.dumps(entry)) < 4096
    assert CANARY * 30 not in json.dumps(entry)
    assert CANARY not in httpx.get(f"{attacked.router}/metrics").text


def test_a_path_of_megabytes_is_refused(attacked: Attacked) -> None:
    before = attacked.edge_bytes()
    head = f"authorization: Bearer {KEYS['fast'][0]}\r\nhost: a\r\n\r\n"
    for prefix in ("/v1/models/", "/v1/requests/", "/v1/chat/completions?", "/"):
        request = f"GET {prefix}{LONG} HTTP/1.1\r\n{head}".encode()
        answer = exchange(attacked.edge.port, request)
        assert answer.status in (0, 400, 404, 405, 414, 431), (prefix, answer)
    assert attacked.edge_bytes() - before < 64 * MIB
