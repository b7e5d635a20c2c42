"""A small TCP load balancer for tests, in place of a Service or a network load balancer.

New connections go in turn to the targets whose health check answers 200; open ones stay where they are.
It parses no HTTP beyond that check.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence

from harness.background import served
from harness.ports import free_port

CHECK_SECONDS = 0.1


class TcpFront:
    """The load balancer's state: which targets are healthy."""

    def __init__(self, targets: Sequence[int], check: str) -> None:
        self._check = check
        self.port = free_port()
        self.healthy: dict[int, bool] = dict.fromkeys(targets, False)
        self._turn = itertools.count()

    async def watch(self) -> None:
        """Check every target's health repeatedly."""
        while True:
            for target in self.healthy:
                self.healthy[target] = await _healthy(target, self._check)
            await asyncio.sleep(CHECK_SECONDS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection in both directions."""
        targets = [target for target, healthy in self.healthy.items() if healthy]
        if not targets:
            writer.close()
            return
        first = next(self._turn) % len(targets)
        for target in targets[first:] + targets[:first]:
            with contextlib.suppress(OSError):
                upstream = await asyncio.open_connection("127.0.0.1", target)
                break
        else:
            writer.close()
            return
        await asyncio.gather(_carry(reader, upstream[1]), _carry(upstream[0], writer))


async def _healthy(target: int, path: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", target)
    except OSError:
        return False
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nconnection: close\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 1)
        return line.startswith(b"HTTP/1.1 200")
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@contextlib.contextmanager
def tcp_front(targets: Sequence[int], check: str = "/healthz") -> Iterator[TcpFront]:
    """Run the load balancer in a new thread until the block ends; ``check`` is the health check's path."""
    front = TcpFront(targets, check)
    watching: list[asyncio.Task[None]] = []

    async def start() -> asyncio.Server:
        watching.append(asyncio.create_task(front.watch()))
        return await asyncio.start_server(front.serve, "127.0.0.1", front.port, backlog=1024)

    with served(start):
        yield front
