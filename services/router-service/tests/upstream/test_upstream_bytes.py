"""The real upstream with an engine that sends arbitrary and contradictory bytes."""

import asyncio

import pytest

from harness.servers.upstream_engine import CHUNKED, REQUEST, Engine, Sink, exchange, sized
from router_service.ports import Broken, ConnectFailed, ConnectionLost, ResponseBroken
from router_service.upstream.address import Address
from router_service.upstream.connection import STALE_SECONDS
from router_service.upstream.pool import UpstreamPool


async def test_an_answer_split_at_every_byte_is_the_same(engine, pool) -> None:
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        + CHUNKED
        + b"3\r\nabc\r\n1a;x=y\r\n"
        + b"z" * 26
        + b"\r\n0\r\nx-trailer: t\r\n\r\n"
    )
    for cut in range(1, len(answer)):
        engine.answers.append([answer[:cut], 0.0, answer[cut:]])
        sink = await exchange(pool, engine.url)
        assert (sink.status, sink.body, sink.ends) == (200, b"abc" + b"z" * 26, 1)
        assert b"x-trailer" not in dict(sink.headers)
    assert engine.connections == 1


@pytest.mark.parametrize("kept", [1, 2, 3])
async def test_a_long_body_right_behind_the_last_byte_of_a_head_is_no_head(engine, pool, kept: int) -> None:
    body = b"x" * 400_000
    answer = sized(body)
    cut = answer.index(b"\r\n\r\n") + kept
    engine.answers.append([answer[:cut], 0.05, answer[cut:]])
    sink = await exchange(pool, engine.url)
    assert (sink.body == body, sink.error) == (True, None)


@pytest.mark.parametrize("piece", [b"a" * 1000, b"b\r\nx-next: "], ids=["one header", "many headers"])
async def test_a_head_that_never_ends_is_stopped(engine, pool, piece: bytes) -> None:
    engine.answers.append([b"HTTP/1.1 200 OK\r\nx: ", *([piece * 10, 0.0] * 10_000)])
    sink = await exchange(pool, engine.url)
    assert isinstance(sink.error, ResponseBroken)
    assert "64 KiB" in str(sink.error)


@pytest.mark.parametrize(
    ("steps", "stage"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "close"], Broken.IN_BODY),
        ([CHUNKED + b"5\r\nab", "reset"], Broken.IN_BODY),
        ([CHUNKED + b"zz\r\nab\r\n", 0.05], Broken.IN_BODY),
        ([b"HTTP/1.1 200 OK\r\nx: y", "close"], Broken.IN_HEAD),
        ([b"hello, I am no HTTP server\r\n\r\n", 0.05], Broken.IN_HEAD),
        (
            [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 0.05],
            Broken.IN_HEAD,
        ),
        ([b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 0.05], Broken.IN_HEAD),
        ([b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000, 0.05], Broken.IN_HEAD),
        (["close"], Broken.BEFORE_ANSWER),
        (["reset"], Broken.BEFORE_ANSWER),
    ],
)
async def test_lies_are_failures_and_say_how_far_it_came(engine, pool, steps, stage: Broken) -> None:
    engine.answers.append(steps)
    sink = await exchange(pool, engine.url)
    assert isinstance(sink.error, ResponseBroken)
    assert sink.error.stage is stage
    assert pool.idle(engine.url) is None


async def test_more_bytes_than_content_length_are_not_part_of_the_answer(engine, pool) -> None:
    engine.answers.append([sized(b"abc") + b"surplus", 0.05])
    sink = await exchange(pool, engine.url)
    assert (sink.body, sink.ends) == (b"abc", 1)
    assert pool.idle(engine.url) is None


async def test_connection_close_is_obeyed(engine, pool) -> None:
    engine.answers.append([sized(b"abc", b"connection: close\r\n"), "close"])
    assert (await exchange(pool, engine.url)).body == b"abc"
    assert pool.idle(engine.url) is None


async def test_a_body_without_length_ends_with_its_connection(engine, pool) -> None:
    engine.answers.append([b"HTTP/1.1 200 OK\r\n\r\nabc", 0.02, b"def", "close"])
    sink = await exchange(pool, engine.url)
    assert (sink.body, sink.ends) == (b"abcdef", 1)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_end_at_once(engine, pool, status: bytes) -> None:
    engine.answers.append([b"HTTP/1.1 " + status + b"\r\n\r\n"])
    assert (await exchange(pool, engine.url)).ends == 1
    assert pool.idle(engine.url) is not None


async def test_a_kept_connection_that_is_lost_with_the_engine_at_work_is_a_failure(engine, pool) -> None:
    engine.answers.extend([[sized(b"a")], [STALE_SECONDS + 0.2, "close"]])
    await exchange(pool, engine.url)
    sink = await exchange(pool, engine.url)
    assert isinstance(sink.error, ConnectionLost)
    assert sink.error.stage is Broken.BEFORE_ANSWER


async def test_idle_connections_are_closed_before_the_engine_would(engine) -> None:
    pool = UpstreamPool(keep_alive_seconds=0.05)
    engine.answers.append([sized(b"a")])
    await exchange(pool, engine.url)
    await asyncio.sleep(0.1)
    assert pool.idle(engine.url) is None
    await asyncio.wait_for(engine.lost.wait(), 5)
    await pool.close()


async def test_an_abort_is_seen_by_the_engine(engine, pool) -> None:
    engine.answers.append([CHUNKED, "wait"])
    connection = await pool.connect(engine.url, 2.0)
    connection.send(REQUEST, Sink())
    await asyncio.sleep(0.05)
    connection.abort()
    await asyncio.wait_for(engine.lost.wait(), 1)
    await asyncio.sleep(0)
    assert pool.open_connections() == 0


async def test_a_paused_connection_holds_the_engine_back(engine, pool) -> None:
    block = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    engine.answers.append([CHUNKED, *([block] * 400), b"0\r\n\r\n"])
    connection = await pool.connect(engine.url, 2.0)
    sink = Sink()
    connection.pause()
    connection.send(REQUEST, sink)
    await asyncio.sleep(0.3)
    assert len(sink.body) == 0, "nothing is read, so nothing is buffered here"
    connection.resume()
    await asyncio.wait_for(sink.done, 120)
    assert len(sink.body) == 400 * 65536


async def test_names_that_do_not_resolve_and_ipv6(engine, pool) -> None:
    with pytest.raises(ConnectFailed):
        await pool.connect("http://no-such-host.invalid:80", 2.0)
    six = Engine()
    try:
        await six.start("::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    six.answers.append([sized(b"six")])
    assert (await exchange(pool, f"http://[::1]:{six.port}")).body == b"six"
    await six.stop()


def test_addresses_keep_brackets_ports_and_prefixes() -> None:
    six = Address.parse("http://[::1]:8000/prefix/")
    assert (six.host, six.port, six.authority, six.prefix) == ("::1", 8000, b"[::1]:8000", b"/prefix")
    assert Address.parse("https://engine").port == 443
    for bad in ("ftp://x", "http://", "engine:80"):
        with pytest.raises(ValueError, match="not an http"):
            Address.parse(bad)
