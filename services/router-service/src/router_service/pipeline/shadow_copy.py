"""The copy of one request, as its original sees it. Also the relay that drops the copy's answer. Knows no backend."""

import asyncio
from dataclasses import dataclass

from router_service.pipeline.relay import ClientListener, Headers
from router_service.routing.vocabulary import NotCopied


@dataclass(slots=True, eq=False)
class Copy:
    """A copy for ``pool``, with the interface of `pipeline.relay.Relay`: it keeps nothing of the answer.

    ``left_out`` is the reason if there is no copy. ``gone``: the copy was ended, for the reason ``why``.
    """

    pool: str
    left_out: NotCopied | None = None
    gone: bool = False
    why: str = ""
    task: asyncio.Task[None] | None = None
    began: bool = False
    listener: ClientListener | None = None

    def stop(self, because: NotCopied, why: str) -> None:
        """End the copy at once; before its start it is left out because of ``because``."""
        if self.gone or self.task is None or self.task.done():
            return
        self.gone, self.why = True, why
        if self.listener is not None:
            self.listener.client_gone()  # resets the connection, so that the engine stops
        elif self.began:
            self.task.cancel()  # it is connecting
        else:
            self.left_out = because

    def listen(self, listener: ClientListener | None) -> None:
        self.listener = listener

    def start(self, status: int, headers: Headers) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def finish(self, trailers: Headers = ()) -> None:
        pass

    def abort(self) -> None:
        pass

    async def settled(self) -> None:
        pass
