"""Stored and background responses, in memory, as vLLM 0.32 keeps them with VLLM_ENABLE_RESPONSES_API_STORE=1."""

import asyncio
from typing import Any

from engine_simulator.engine import Engine
from engine_simulator.requests import Refused
from engine_simulator.responses_api import ResponseEvents, run

_INVALID = "invalid_request_error"


class ResponseStore:
    """The responses of one engine by their ids. ``enabled`` False: nothing is stored, as by vLLM's default."""

    def __init__(self, engine: Engine, *, enabled: bool) -> None:
        self.enabled = enabled
        self._engine = engine
        self._kept: dict[str, dict[str, Any]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def check(self, body: dict[str, Any]) -> None:
        """Check what a new request asks of the store.

        Raises:
            Refused: with vLLM's status and message.
        """
        if body.get("background") and body.get("store") is False:
            raise Refused(400, "background can only be used when `store` is true", "background")
        if body.get("background") and not self.enabled:
            message = (
                "This vLLM engine does not support `store=True` and therefore does not support the background mode. "
                "To enable these features, set the environment variable `VLLM_ENABLE_RESPONSES_API_STORE=1` when "
                "launching the vLLM server."
            )
            raise Refused(400, message, "background", _INVALID)
        if body.get("background") and body.get("stream"):
            message = "background: the engine simulator does not support it with stream; use a real engine"
            raise Refused(501, message, "background", "NotImplementedError")
        if (previous := body.get("previous_response_id")) is not None:
            self.find(previous)

    def find(self, response_id: str) -> dict[str, Any]:
        """Return a stored response.

        Raises:
            Refused: 404, there is none.
        """
        if response_id not in self._kept:
            raise Refused(404, f"Response with id '{response_id}' not found.", "response_id", _INVALID)
        return self._kept[response_id]

    def keep(self, body: dict[str, Any], response: dict[str, Any]) -> None:
        """Store a response unless the request forbids it or the response was cancelled."""
        known = self._kept.get(response["id"])
        if self.enabled and body.get("store") is not False and (known or {}).get("status") != "cancelled":
            self._kept[response["id"]] = response

    def begin(self, body: dict[str, Any]) -> dict[str, Any]:
        """Run a background request; return its response, which is still queued."""
        events = ResponseEvents(body)
        queued = events.unfinished("queued")
        self.keep(body, queued)
        task = asyncio.get_running_loop().create_task(self._finish(body, events))
        self._tasks[queued["id"]] = task
        task.add_done_callback(lambda _: self._tasks.pop(queued["id"], None))
        return queued

    def cancel(self, response_id: str) -> dict[str, Any]:
        """Cancel a background response and return it.

        Raises:
            Refused: it does not exist or has ended.
        """
        response = self.find(response_id)
        if response["status"] not in ("queued", "in_progress"):
            raise Refused(400, "Cannot cancel a synchronous response.", "response_id", _INVALID)
        response["status"] = "cancelled"
        if task := self._tasks.get(response_id):
            task.cancel()
        return response

    async def _finish(self, body: dict[str, Any], events: ResponseEvents) -> None:
        self.keep(body, await run(body, self._engine, events))
