"""Holds the beginning of a response back from the client, so that a retry stays possible."""

from router_service.openai_api.body_edit import PieceEditor
from router_service.openai_api.usage import EngineReport, ReportScanner

MAX_HELD_BYTES = 1024 * 1024
"""Maximum size of an unstreamed response, or of the events before the first token, that is held back."""

MAX_ERROR_BYTES = 256 * 1024


class PlainBody:
    """A body without events. ``hold`` keeps pieces of a whole body; ``pass_on`` forwards a body that is too
    large to hold.
    """

    __slots__ = ("_editor", "_pieces", "_scanner", "_size")

    def __init__(self, editor: PieceEditor | None = None) -> None:
        self._editor = editor
        self._pieces: list[bytes] = []
        self._size = 0
        self._scanner: ReportScanner | None = None

    def hold(self, data: bytes, limit: int) -> bool:
        """Keep a piece; return False when the held body exceeds ``limit`` bytes."""
        self._pieces.append(data)
        self._size += len(data)
        return self._size <= limit

    def take(self) -> bytes:
        """Return the held bytes and release them."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pass_on(self, data: bytes) -> bytes:
        """Search a piece for token counts; return the bytes to send to the client at once."""
        if self._scanner is None:
            self._scanner = ReportScanner()
        self._scanner.feed(data)
        return data if self._editor is None else self._editor.feed(data)

    def rest(self) -> bytes:
        """Return the bytes that `pass_on` held back at the end of the body."""
        return b"" if self._editor is None else self._editor.rest()

    def report(self) -> EngineReport:
        """Read the token counts of the forwarded bytes."""
        return self._scanner.report() if self._scanner is not None else EngineReport()


class Prelude:
    """The events of a stream before its first token."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = b""

    def hold(self, data: bytes) -> bool:
        """Keep a block of events; return False when the held events exceed the limit."""
        self.data += data
        return len(self.data) <= MAX_HELD_BYTES

    def take(self) -> bytes:
        """Return the held bytes and release them."""
        data, self.data = self.data, b""
        return data
