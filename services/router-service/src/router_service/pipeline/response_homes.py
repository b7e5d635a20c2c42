"""Which backend has a stored response: noted when the response begins, found by any router on the same store.

Responses are kept by an engine in its memory, so only the backend that produced one can return, cancel or continue it.
Must not know how entries are stored or expire. Keeps no response id, only its digest with the client's id.
"""

from collections.abc import Callable
from typing import NamedTuple

from router_service.openai_api.event_stream import EventStream
from router_service.openai_api.response_ids import ResponseIdReader
from router_service.pipeline.answer import Answer
from router_service.pipeline.recipient import Recipient
from router_service.pipeline.sessions import SessionPins
from router_service.pipeline.watchdog import Watchdog
from router_service.routing.hashing import digest
from router_service.routing.snapshot import BackendView

SOURCE = "body:previous_response_id"
"""The session source of a request that continues a stored response."""

_BETWEEN = "\n"
"""Separates pool, backend and request: no name contains it."""


class Home(NamedTuple):
    """The backend that has a response; ``key`` is the digest of client and response id.

    ``created_by`` is the id of the request that began the response in the background, until its tokens are counted; else "".
    """

    pool: str
    backend: str
    key: str
    created_by: str = ""


class ResponseHomes:
    """Notes and finds the backends of responses. A client finds only its own responses."""

    def __init__(self, pins: SessionPins) -> None:
        self._pins = pins

    @property
    def up(self) -> bool:
        """Return False while the store does not reply, so that no entry need not mean that there is none."""
        return self._pins.up

    def note(self, client_id: str, response_id: str, backend: BackendView, created_by: str = "") -> None:
        """Store, off the request's path, that ``backend`` has the response. See `Home` for ``created_by``."""
        self._place(Home(backend.pool, backend.name, _key(client_id, response_id), created_by))

    def counted(self, home: Home) -> None:
        """Store that the tokens of a response are counted, so that the next request for it does not count them."""
        self._place(home._replace(created_by=""))

    async def find(self, client_id: str, response_id: str) -> Home | None:
        """Return the backend that has the response, None if it is unknown or the store does not reply; renew the entry."""
        key = _key(client_id, response_id)
        entry = await self._pins.pin(key)
        pool, _, rest = entry.partition(_BETWEEN)
        backend, _, created_by = rest.partition(_BETWEEN)
        if not backend:
            return None
        home = Home(pool, backend, key, created_by)
        self._place(home)
        return home

    def _place(self, home: Home) -> None:
        named = [home.pool, home.backend] + ([home.created_by] if home.created_by else [])
        self._pins.placed(home.key, _BETWEEN.join(named), moved=True)


class NotedAnswer(Answer):
    """The answer of a path whose responses may be stored: passes the response's id to ``note`` as soon as it arrives."""

    __slots__ = ("_ids", "_note")

    def __init__(
        self, recipient: Recipient, events: EventStream, clock: Watchdog, note: Callable[[str], None]
    ) -> None:
        super().__init__(recipient, events, clock)
        self._ids = ResponseIdReader()
        self._note = note

    def on_body(self, data: bytes) -> None:
        if not self._ids.over and self.status == 200 and (found := self._ids.feed(data)):
            self._note(found)
        super().on_body(data)


def _key(client_id: str, response_id: str) -> str:
    return digest("response", client_id, response_id)
