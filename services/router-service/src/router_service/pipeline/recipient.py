"""The recipient of a response, and the seam of a continued stream. Must not know backends or sockets."""

from collections.abc import Callable
from dataclasses import dataclass

from router_service.openai_api.body_edit import PieceEditor
from router_service.openai_api.delivered import DeliveredTokens
from router_service.openai_api.paths import InferencePath
from router_service.openai_api.usage import EngineReport
from router_service.pipeline.headers import RawHeaders
from router_service.pipeline.relay import Relay

HeadMaker = Callable[[int, RawHeaders, EngineReport | None], RawHeaders]
"""Makes the client's headers from the status, the engine's headers and (unstreamed) the engine's report."""


class Seam:
    """Rewrites the bytes of a continued stream; `pipeline.resume` has the only implementation.

    ``written``: the client has bytes of this continuation, so it cannot be continued again (its events are not kept).
    ``diverged``: the engine's text differs from the client's. ``over``: the last fed block completes the response.
    """

    def __init__(self) -> None:
        self.written = False
        self.diverged = False
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """Return ``data``, a block of whole events, rewritten for the client."""
        raise NotImplementedError

    def total(self, report: EngineReport) -> EngineReport:
        """Return the token counts of the whole response, this part included."""
        raise NotImplementedError


@dataclass(slots=True)
class Recipient:
    """The destination of a response. ``reject``: statuses that count as a failed attempt. ``trailers``: send token
    counts as trailers. ``started``: the client has the beginning of the response. ``opened``: it has at least the head
    of an event stream. ``editor`` changes the bytes for the client. ``delivered`` counts the tokens of a stream whose
    last event would not report them.
    """

    relay: Relay
    path: InferencePath
    head: HeadMaker
    reject: frozenset[int]
    trailers: bool
    started: bool = False
    opened: bool = False
    editor: PieceEditor | None = None
    delivered: DeliveredTokens | None = None
