"""What an answer asks of its continuation; `pipeline.resume` is the one kind there is."""

from router_service.openai_api.usage import EngineReport


class Seam:
    """What a continued stream does to its bytes; see `pipeline.resume`.

    ``written``: the client has something of it; what follows a seam is not kept, so it cannot be continued again.
    ``diverged``: this engine says something else than what the client already has of the answer. ``over``:
    what was fed last holds the end of the answer, whatever the engine would still say.
    """

    def __init__(self) -> None:
        self.written = False
        self.diverged = False
        self.over = False

    def feed(self, data: bytes) -> bytes:
        """Whole events in, whole events out."""
        raise NotImplementedError

    def total(self, report: EngineReport) -> EngineReport:
        """The counts of the whole answer, this part included."""
        raise NotImplementedError
