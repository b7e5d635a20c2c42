"""A client that reads slowly pauses its backend's connection, and no timeout counts during the pause."""

import asyncio
from collections import deque
from time import perf_counter

from harness.fake_upstream import FakeUpstream, Script
from router_service.openai_api.event_stream import EventStream
from router_service.openai_api.paths import INFERENCE_PATHS
from router_service.pipeline.answer import Answer
from router_service.pipeline.ends import End
from router_service.pipeline.recipient import Recipient
from router_service.pipeline.watchdog import Alarms, Watchdog
from router_service.routing.rules import Timeouts

URL = "http://e:1"
PIECES = (b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n")
IDLE_SECONDS = 0.05


class Client:
    """A relay to a client that is slow from the first byte on, until the test changes it."""

    gone = False

    def __init__(self) -> None:
        self.data = b""
        self.ends: list[str] = []

    def listen(self, listener) -> None:
        self.listener = listener

    def start(self, status, headers) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.data += data
        if self.data == data:
            self.listener.client_slow()

    def finish(self, trailers=()) -> None:
        self.ends.append("finish")

    def abort(self) -> None:
        self.ends.append("abort")


def answer_to(client: Client) -> Answer:
    recipient = Recipient(
        client,
        INFERENCE_PATHS["/v1/chat/completions"],
        lambda status, headers, report: headers,
        frozenset(),
        trailers=False,
    )
    clock = Watchdog(Alarms(), Timeouts(1.0, 5.0, IDLE_SECONDS, 60.0), perf_counter() + 60, streamed=True)
    return Answer(recipient, EventStream(False), clock)


async def test_a_slow_client_pauses_the_exchange_and_is_no_silence_of_the_engine() -> None:
    script = Script(200, ((b"content-type", b"text/event-stream"),), PIECES)
    exchange = await FakeUpstream({URL: deque([script])}).connect(URL, 1.0)
    client = Client()
    answer = answer_to(client)
    answer.send(exchange, b"")
    await asyncio.sleep(6 * IDLE_SECONDS)
    assert client.data == PIECES[0], "nothing is read for a client that does not read"
    assert not answer.done.done(), "the engine is not charged with the client's slowness"
    client.listener.client_ready()
    await asyncio.wait_for(answer.done, 5)
    assert answer.end is End.COMPLETE
    assert (client.data, client.ends) == (b"".join(PIECES), ["finish"])


async def test_a_client_that_reads_again_lets_the_engines_own_silence_count_again() -> None:
    script = Script(200, ((b"content-type", b"text/event-stream"),), PIECES[:1], "silence")
    exchange = await FakeUpstream({URL: deque([script])}).connect(URL, 1.0)
    client = Client()
    answer = answer_to(client)
    answer.send(exchange, b"")
    await asyncio.sleep(3 * IDLE_SECONDS)
    assert not answer.done.done()
    client.listener.client_ready()
    await asyncio.wait_for(answer.done, 5)
    assert answer.end is End.IDLE_TIMEOUT
