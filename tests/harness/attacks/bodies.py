"""Bodies that cost more to hold, to read or to log than they seem: slow, of a million items, of megabytes of text."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator

from h2.events import ResponseReceived

from harness.clients.http2 import http2_client, post_headers
from harness.servers.edges import CHAT
from harness.stacks.attacked import ATTACK_SECONDS, KEYS, MIB, Attacked, unharmed_neighbour

BODY_BYTES = 10 * MIB
CLIENT_BYTES = 128 * MIB


def slow_post(stack: Attacked, opened: contextlib.ExitStack) -> socket.socket:
    """Announce a body on a new connection."""
    client = opened.enter_context(socket.create_connection(("127.0.0.1", stack.edge.port), timeout=20))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEYS['fast'][0]}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
    client.sendall(head.encode())
    client.setblocking(False)
    return client


def push(clients: list[socket.socket], bytes_each: int, seconds: float) -> None:
    """Send as much of every body as the edge takes, round by round."""
    left = dict.fromkeys(clients, bytes_each)
    deadline = time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        for client in list(left):
            try:
                left[client] -= client.send(b" " * min(65536, left[client]))
            except BlockingIOError:
                continue
            except ConnectionError:
                left[client] = 0
            if left[client] <= 0:
                del left[client]
        time.sleep(0.01)


def is_refused(client: socket.socket) -> bool:
    """Return whether a connection was answered or closed."""
    try:
        client.recv(65536)
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@contextlib.contextmanager
def slow_streams(stack: Attacked, seconds: float) -> Iterator[tuple[int, int]]:
    """Send 100 bodies over one HTTP/2 connection for ``seconds``, as far as the windows allow, without their ends.

    Yields the number of refused streams and the bytes sent on the others; the connection stays open in the block.
    """
    headers = post_headers(CHAT, KEYS["fast"][0], BODY_BYTES)
    streams = [1 + 2 * number for number in range(100)]
    sent = dict.fromkeys(streams, 0)
    refused: set[int] = set()
    with http2_client(stack.edge.port, tls=stack.edge.tls()) as client:
        protocol = client.protocol
        for stream in streams:
            protocol.send_headers(stream, headers)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for stream in streams:
                size = min(protocol.local_flow_control_window(stream), BODY_BYTES - 64 - sent[stream], 16384)
                if stream not in refused and size > 0:
                    protocol.send_data(stream, b" " * size)
                    sent[stream] += size
            client.flush()
            for event in client.events(0.05) or []:
                if isinstance(event, ResponseReceived):
                    assert event.stream_id is not None
                    refused.add(event.stream_id)
        yield len(refused), sum(sent[stream] for stream in streams if stream not in refused)


ITEMS = 1_000_000


def items(item: bytes, count: int = ITEMS) -> bytes:
    return b"[" + item + (b"," + item) * (count - 1) + b"]"


TINY_ITEMS = {
    "token ids, unknown model": (
        "/v1/completions",
        b'{"model":"unknown","prompt":%b}' % items(b"1", 400_000),
    ),
    "empty prompts": ("/v1/completions", b'{"model":"m","prompt":%b}' % items(b'""')),
    "empty lists": ("/v1/embeddings", b'{"model":"m","input":%b}' % items(b"[]")),
    "parts": (CHAT, b'{"model":"m","messages":[{"role":"user","content":%b}]}' % items(b"{}")),
    "messages": (CHAT, b'{"model":"m","messages":%b}' % items(b"{}")),
    "stop strings": (
        CHAT,
        b'{"model":"unknown","messages":[{"role":"user","content":"a"}],"stop":%b}' % items(b'""'),
    ),
    "nested lists": (
        CHAT,
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"x":%b}' % items(b"[[[]]]", 300_000),
    ),
}

CANARY = "CaNaRyTeXt"
LONG = CANARY * (4 * MIB // len(CANARY))
CHAT_BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


def long_texts() -> Iterator[bytes]:
    """Bodies with 4 MB of text in one field that could reach a record, an error or a log."""
    for name in ("model", "user", "cache_salt", "service_tier", "tool_choice", LONG[:MIB]):
        yield json.dumps({**CHAT_BODY, name: LONG}).encode()
    yield json.dumps({**CHAT_BODY, "messages": [{"role": LONG, "content": "hi"}]}).encode()
    yield json.dumps({**CHAT_BODY, "metadata": {LONG: LONG}, "model": "unknown"}).encode()


def two_slow_bodies_are_taken(stack: Attacked, attack: str) -> None:
    """Send 100 slow bodies over one connection; check that the edge takes two and that a second client is unharmed."""
    before = stack.edge_bytes()
    with (
        unharmed_neighbour(stack, attack),
        slow_streams(stack, max(5.0, ATTACK_SECONDS)) as (refused, held),
    ):
        grown = stack.edge_bytes() - before
    print(f"{100 - refused} of 100 streams taken, {held // MIB} MiB sent on them, edge +{grown // MIB} MiB")
    assert refused == 98, "two bodies of one connection are taken"
    assert MIB < held <= 2 * BODY_BYTES, "the attack must have happened: bytes were held"
    assert grown < 2 * BODY_BYTES + 64 * MIB
