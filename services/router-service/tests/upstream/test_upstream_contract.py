"""One suite for the real upstream and its fake."""

import asyncio
from collections import deque

import pytest

from harness.fake_upstream import FakeUpstream, Script
from harness.servers.upstream_engine import CHUNKED, REQUEST, Sink, exchange
from router_service.ports import Broken, ConnectFailed, ResponseBroken, StaleConnection


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
