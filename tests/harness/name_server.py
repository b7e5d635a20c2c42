"""A DNS server for tests: answers A queries for every name with a changeable list of addresses."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from harness.ports import free_port

A_RECORD = 1


class NameServer:
    """The running server. ``addresses`` may be replaced at any time."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self.port = free_port()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", self.port))

    def serve(self) -> None:
        """Answer until the socket is closed."""
        while True:
            try:
                question, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            if not question:
                return
            self.socket.sendto(self._answer(question), peer)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(b"\0", 12) + 5
        kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
        found = self.addresses if kind == A_RECORD else []
        head = question[:2] + struct.pack(">HHHHH", 0x8580, 1, len(found), 0, 0)
        records = b"".join(
            struct.pack(">HHHIH", 0xC00C, A_RECORD, 1, 1, 4) + socket.inet_aton(address) for address in found
        )
        return head + question[12:end] + records


@contextmanager
def name_server(addresses: list[str]) -> Iterator[NameServer]:
    """Run the server in a thread until the block ends."""
    server = NameServer(addresses)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", server.port))
        thread.join(5)
        server.socket.close()
