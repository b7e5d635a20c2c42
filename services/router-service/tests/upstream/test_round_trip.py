"""The kernel's measurement of a handshake exists for a listening backend, and only for a listening backend."""

import asyncio

from router_service.upstream.pool import UpstreamPool


async def test_a_listening_backend_is_as_near_as_this_machine_is_and_hears_no_byte() -> None:
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        seconds = await UpstreamPool().round_trip_seconds(f"http://127.0.0.1:{port}/v1", 5.0)
        assert await asyncio.wait_for(heard, 10) == b""
    assert seconds is not None
    assert 0.0 < seconds < 1.0


async def test_nobody_there_is_unknown_and_no_exception() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    assert await UpstreamPool().round_trip_seconds(f"http://127.0.0.1:{port}", 1.0) is None
    assert await UpstreamPool().round_trip_seconds("http://no-such-host.invalid:1", 1.0) is None
