"""One suite for the real upstream and its fake, and byte-level lies for the real one."""

import asyncio
import contextlib
from collections import deque

import pytest

from router_service.ports import Broken, ConnectFailed, ConnectionLost, ResponseBroken, StaleConnection
from router_service.upstream.address import Address
from router_service.upstream.connection import STALE_SECONDS
from router_service.upstream.fake import FakeUpstream, Script
from router_service.upstream.pool import UpstreamPool


class Sink:
    """Keeps what an exchange told."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.ends = 0
        self.error: Exception | None = None
        self.done = asyncio.get_running_loop().create_future()

    def on_head(self, status, headers) -> None:
        assert not self.status
        self.status, self.headers = status, headers

    def on_body(self, data: bytes) -> None:
        assert not self.done.done()
        self.body += data

    def on_end(self) -> None:
        self.ends += 1
        self.done.set_result(None)

    def on_failure(self, error: Exception) -> None:
        self.error = error
        self.done.set_result(None)


class Engine:
    """A raw server: one list of steps (bytes, a pause in seconds, "close", "close if used", "reset") per request."""

    def __init__(self) -> None:
        self.answers: deque[list] = deque()
        self.connections = 0
        self.lost = asyncio.Event()
        self.port = 0

    async def start(self, host: str = "127.0.0.1") -> None:
        self._server = await asyncio.start_server(self._serve, host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        used = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                for step in self.answers.popleft():
                    if step == "close" or (step == "close if used" and used):
                        writer.close()
                        return
                    if step == "reset":
                        writer.transport.abort()
                        return
                    if step == "wait":
                        await reader.read()
                        self.lost.set()
                        return
                    if isinstance(step, float):
                        await asyncio.sleep(step)
                    elif isinstance(step, bytes):
                        writer.write(step)
                        await writer.drain()
                used = True
        self.lost.set()
        writer.close()

    async def stop(self) -> None:
        self._server.close()


@pytest.fixture
async def engine():
    engine = Engine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
async def pool():
    pool = UpstreamPool()
    yield pool
    await pool.close()


def sized(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: e\r\n\r\n"


async def exchange(pool, url: str) -> Sink:
    connection = pool.idle(url) or await pool.connect(url, 2.0)
    sink = Sink()
    connection.send(REQUEST, sink)
    async with asyncio.timeout(5):
        await sink.done
    return sink


# -- the contract, held by both -------------------------------------------------------------------


@pytest.fixture(params=["real", "fake"])
async def upstream(request, engine, pool):
    """(upstream, url, play): ``play`` scripts the next answer for either implementation."""
    if request.param == "fake":
        fake = FakeUpstream({"http://e:1": deque()})

        def play(pieces: list[bytes], ending: str = "complete") -> None:
            fake.scripts["http://e:1"].append(Script(200, ((b"x-a", b"1"),), tuple(pieces), ending))

        yield fake, "http://e:1", play
        return

    def play_real(pieces: list[bytes], ending: str = "complete") -> None:
        steps: list = ["close if used"] if ending == "stale" else []
        steps += [CHUNKED, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)]
        engine.answers.append([*steps, {"break": "close", "silence": "wait"}.get(ending, b"0\r\n\r\n")])

    yield pool, engine.url, play_real


async def test_an_answer_arrives_whole_and_ends_once(upstream) -> None:
    up, url, play = upstream
    play([b"one", b"two"])
    sink = await exchange(up, url)
    assert (sink.status, sink.body, sink.ends, sink.error) == (200, b"onetwo", 1, None)
    assert (b"x-a", b"1") in sink.headers


async def test_a_connection_serves_again_after_a_whole_answer(upstream) -> None:
    up, url, play = upstream
    play([b"a"])
    play([b"b"])
    await exchange(up, url)
    connection = up.idle(url)
    assert connection is not None
    assert connection.used
    sink = Sink()
    connection.send(REQUEST, sink)
    await sink.done
    assert sink.body == b"b"


async def test_an_answer_that_breaks_off_fails_and_its_connection_is_not_used_again(upstream) -> None:
    up, url, play = upstream
    play([b"half"], "break")
    sink = await exchange(up, url)
    assert isinstance(sink.error, ResponseBroken)
    assert sink.error.stage is Broken.IN_BODY
    assert (sink.body, sink.ends) == (b"half", 0)
    assert up.idle(url) is None


async def test_after_an_abort_the_sink_hears_nothing(upstream) -> None:
    up, url, play = upstream
    play([b"a"])
    connection = await up.connect(url, 2.0)
    sink = Sink()
    connection.send(REQUEST, sink)
    connection.abort()
    await asyncio.sleep(0.05)
    assert not sink.done.done()
    assert not sink.status


async def test_a_paused_answer_waits(upstream) -> None:
    up, url, play = upstream
    play([b"a", b"b"])
    connection = await up.connect(url, 2.0)
    sink = Sink()
    connection.send(REQUEST, sink)
    connection.pause()
    await asyncio.sleep(0.05)
    assert not sink.done.done()
    connection.resume()
    await asyncio.wait_for(sink.done, 5)
    assert sink.body == b"ab"


async def test_a_kept_connection_that_was_closed_is_stale_and_a_new_one_is_not(upstream) -> None:
    up, url, play = upstream
    play([b"a"])
    play([b"b"], "stale")
    play([b"b"], "stale")
    await exchange(up, url)
    kept = up.idle(url)
    assert kept is not None
    sink = Sink()
    kept.send(REQUEST, sink)
    await asyncio.wait_for(sink.done, 5)
    assert isinstance(sink.error, StaleConnection)
    assert (sink.status, sink.body, sink.ends) == (0, b"", 0)
    assert up.idle(url) is None, "it is not used again"
    again = await exchange(up, url)
    assert (again.body, again.ends, again.error) == (b"b", 1, None)


@pytest.mark.parametrize("pieces", [[], [b"a"]], ids=["after the head", "after a piece"])
async def test_silence_is_neither_an_end_nor_a_failure_and_an_abort_ends_it(upstream, pieces) -> None:
    up, url, play = upstream
    play(pieces, "silence")
    connection = await up.connect(url, 2.0)
    sink = Sink()
    connection.send(REQUEST, sink)
    async with asyncio.timeout(5):
        while sink.body != b"".join(pieces) or not sink.status:  # noqa: ASYNC110 (the sink sets no event)
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not sink.done.done()
    assert up.idle(url) is None, "it is busy"
    connection.abort()
    await asyncio.sleep(0.05)
    assert not sink.done.done(), "after an abort the sink hears nothing"
    assert up.idle(url) is None


async def test_a_connection_that_was_paused_before_it_was_sent_anything_waits_too(upstream) -> None:
    """A client that is slow from before: the relay says so before the request is sent."""
    up, url, play = upstream
    play([b"a"])
    play([b"b"])
    connection = await up.connect(url, 2.0)
    sink = Sink()
    connection.pause()
    connection.send(REQUEST, sink)
    await asyncio.sleep(0.05)
    assert (sink.body, sink.done.done()) == (b"", False)
    connection.resume()
    await asyncio.wait_for(sink.done, 5)
    assert sink.body == b"a"
    assert (await exchange(up, url)).body == b"b", "the next exchange is not paused"


async def test_a_forgotten_backends_kept_connections_are_not_used_again(upstream) -> None:
    up, url, play = upstream
    play([b"a"])
    await exchange(up, url)
    up.forget(url)
    assert up.idle(url) is None


async def test_a_refusal_is_a_failed_connection_and_no_timeout(upstream) -> None:
    up, _, _ = upstream
    with pytest.raises(ConnectFailed) as refused:
        await up.connect("http://127.0.0.1:1", 1.0)
    assert not refused.value.timed_out


async def test_a_request_begins_with_its_line_and_its_host(upstream) -> None:
    up, url, _ = upstream
    host = url.removeprefix("http://").encode()
    assert up.head(url, b"POST", b"/v1/x?y") == b"POST /v1/x?y HTTP/1.1\r\nhost: %b\r\n" % host


# -- the real one: every lie a byte can tell --------------------------------------------------------


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
    await asyncio.wait_for(sink.done, 20)
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
