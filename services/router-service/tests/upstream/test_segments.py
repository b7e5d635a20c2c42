"""TCP segments between router and backend, by the kernel's count: repeated reads count each segment once."""

import asyncio

from router_service.ports import UpstreamError
from router_service.upstream.pool import UpstreamPool

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Sink:
    """Waits for one answer's end."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        pass

    def on_body(self, data: bytes) -> None:
        pass

    def on_end(self) -> None:
        self.ended.set_result(None)

    def on_failure(self, error: UpstreamError) -> None:
        self.ended.set_exception(error)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        if (await reader.readline()).strip() == b"":
            writer.write(ANSWER)
    writer.close()


async def test_segments_are_counted_once_and_go_with_their_backend() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pool = UpstreamPool()
    async with server:
        connection = await pool.connect(url, 5.0)
        for asked in (1, 2, 3):
            sink = Sink()
            connection.send(b"GET / HTTP/1.1\r\n\r\n", sink)
            await asyncio.wait_for(sink.ended, 10)
            for _ in range(2):
                counted = pool.segments()[url]
                assert counted.all == 2 * asked, "one there and one back"
                assert counted.repaired == 0, "nothing is lost on loopback"
        pool.forget(url)
        assert url not in pool.segments()
        await pool.close()


async def test_what_a_closed_connection_carried_stays_counted() -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pool = UpstreamPool()
    async with server:
        for carried in (2, 4):
            connection = await pool.connect(url, 5.0)
            sink = Sink()
            connection.send(b"GET / HTTP/1.1\r\n\r\n", sink)
            await asyncio.wait_for(sink.ended, 10)
            connection.abort()
            await asyncio.sleep(0.05)
            assert pool.open_connections() == 0
            assert pool.segments()[url].all == carried, "nobody had asked while it was open"
        await pool.close()
