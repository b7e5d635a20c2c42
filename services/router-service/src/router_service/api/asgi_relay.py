"""The standard relay: sends a response through ASGI's ``send``, on any server. Must not know the content it writes."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from router_service.pipeline.relay import ClientListener, Headers

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

_HIGH_WATER_BYTES = 64 * 1024
_LOW_WATER_BYTES = 16 * 1024


class AsgiRelay:
    """:class:`~router_service.pipeline.relay.Relay` over ``send`` and ``receive`` of one request.

    Created after the request body was read: from then on ``receive`` only reports the client's disconnect.
    """

    def __init__(self, send: Send, receive: Receive) -> None:
        self._send = send
        self._receive = receive
        self._listener: ClientListener | None = None
        self._messages: deque[Message] = deque()
        self._waiting_bytes = 0
        self._slow = False
        self._closed = False
        self._wake = asyncio.Event()
        self._pump = asyncio.create_task(self._send_all())
        self._watch = asyncio.create_task(self._watch_client())
        self.gone = False

    def listen(self, listener: ClientListener | None) -> None:
        self._listener = listener
        if listener is None:
            return
        if self.gone:
            listener.client_gone()
        elif self._slow:
            listener.client_slow()

    def start(self, status: int, headers: Headers) -> None:
        self._messages.append({"type": "http.response.start", "status": status, "headers": list(headers)})

    def write(self, data: bytes) -> None:
        if self.gone or self._closed:
            return
        self._messages.append({"type": "http.response.body", "body": data, "more_body": True})
        self._waiting_bytes += len(data)
        if self._waiting_bytes > _HIGH_WATER_BYTES and not self._slow:
            self._slow = True
            if self._listener is not None:
                self._listener.client_slow()
        self._wake.set()

    def finish(self, trailers: Headers = ()) -> None:
        if self.gone or self._closed:
            return
        # The server closes a body that its callable left open, so only a complete response is ended here.
        self._messages.append({"type": "http.response.body", "body": b"", "more_body": False})
        self._end()

    def abort(self) -> None:
        """Send what was written, then return without the end of the body: the server closes the connection."""
        if not self._closed:
            self._end()

    async def settled(self) -> None:
        self._end()
        self._watch.cancel()
        await self._pump

    def _end(self) -> None:
        self._closed = True
        self._listener = None
        self._wake.set()

    async def _send_all(self) -> None:
        while True:
            while self._messages and not self.gone:
                message = self._messages.popleft()
                try:
                    await self._send(message)
                # The ASGI specification allows a server to raise it after the client has disconnected.
                except OSError:
                    self._left()
                    return
                self._waiting_bytes -= len(message.get("body", b""))
                if self._slow and self._waiting_bytes < _LOW_WATER_BYTES:
                    self._slow = False
                    if self._listener is not None:
                        self._listener.client_ready()
            if self._closed or self.gone:
                return
            self._wake.clear()
            await self._wake.wait()

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._closed:
            self._left()

    def _left(self) -> None:
        self.gone = True
        self._wake.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.client_gone()
