"""An upstream for tests that answers from a script, with the interface of the real one. Opens no socket."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from router_service.ports import Broken, ConnectFailed, ConnectionLost, ResponseSink, StaleConnection
from router_service.upstream.address import Address

Ending = Literal["complete", "break", "silence", "stale"]


@dataclass(frozen=True, slots=True)
class Script:
    """One scripted response. With ``stale``, a reused connection breaks before any byte."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    pieces: tuple[bytes, ...] = ()
    ending: Ending = "complete"


class FakeExchange:
    """A connection of :class:`FakeUpstream`."""

    def __init__(self, upstream: "FakeUpstream", url: str, used: bool) -> None:
        self._upstream = upstream
        self._url = url
        self._sink: ResponseSink | None = None
        self._task: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self.used = used
        self.aborted = False

    def send(self, request: bytes, sink: ResponseSink) -> None:
        self._upstream.requests.append(request)
        self._sink = sink
        self._task = asyncio.create_task(self._play(self._upstream.next_script(self._url)))

    def pause(self) -> None:
        self._reading.clear()

    def resume(self) -> None:
        self._reading.set()

    def abort(self) -> None:
        self._sink = None
        self.aborted = True

    def close(self) -> None:
        self.aborted = True

    async def _play(self, script: Script) -> None:
        await asyncio.sleep(0)
        if script.ending == "stale" and self.used:
            self._fail(StaleConnection("closed while idle"))
            return
        if self._sink is not None:
            self._sink.on_head(script.status, list(script.headers))
        for piece in script.pieces:
            await self._reading.wait()
            await asyncio.sleep(0)
            if self._sink is not None:
                self._sink.on_body(piece)
        await self._reading.wait()
        if script.ending == "break":
            self._fail(ConnectionLost("scripted", Broken.IN_BODY))
        elif script.ending != "silence" and self._sink is not None:
            sink, self._sink = self._sink, None
            self._upstream.give_back(self._url)
            sink.on_end()

    def _fail(self, error: StaleConnection | ConnectionLost) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_failure(error)


@dataclass
class FakeUpstream:
    """Plays ``scripts`` in order per URL and repeats the last one; a URL without a script refuses connections."""

    scripts: dict[str, deque[Script]] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)

    def next_script(self, url: str) -> Script:
        """Return the script of the next request to ``url``."""
        scripts = self.scripts[url]
        return scripts.popleft() if len(scripts) > 1 else scripts[0]

    def give_back(self, url: str) -> None:
        """Make a connection to ``url`` reusable."""
        self.kept[url] = self.kept.get(url, 0) + 1

    def head(self, url: str, method: bytes, target: bytes) -> bytes:
        return b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, target, Address.parse(url).authority)

    def idle(self, url: str) -> FakeExchange | None:
        if not self.kept.get(url):
            return None
        self.kept[url] -= 1
        return FakeExchange(self, url, used=True)

    async def connect(self, url: str, timeout_seconds: float) -> FakeExchange:
        if url not in self.scripts:
            raise ConnectFailed("scripted refusal", timed_out=False)
        return FakeExchange(self, url, used=False)

    def forget(self, url: str) -> None:
        self.kept.pop(url, None)

    def open_connections(self) -> int:
        return sum(self.kept.values())

    async def close(self) -> None:
        self.kept.clear()
