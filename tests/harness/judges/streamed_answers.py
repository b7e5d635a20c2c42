"""Reads a streamed chat or text completion: its content, and whether it is well formed."""

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from platform_contracts.event_streams import DONE, events


@dataclass
class Streamed:
    """One streamed answer. ``problems`` is empty if the stream is well formed."""

    text: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    events: int = 0
    ended: bool = False
    problems: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def same_as(self) -> tuple[Any, ...]:
        """Return the parts that are equal in two responses that a client cannot distinguish."""
        counts = self.usage and (self.usage["prompt_tokens"], self.usage["completion_tokens"])
        return self.text, self.finish_reason, counts


def ask_streamed(
    url: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Streamed:
    """Send ``body`` as a streamed request with usage and read the answer to its end."""
    found = Streamed()
    ids: set[str] = set()
    roles = finishes = 0
    sent = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with (
        httpx.Client(timeout=120) as http,
        http.stream("POST", url + path, json=sent, headers=headers or {}) as answer,
    ):
        found.headers = dict(answer.headers)
        if answer.status_code != 200:
            found.problems.append(f"status {answer.status_code}: {answer.read()[:300]!r}")
            return found
        try:
            for event in events(answer.iter_bytes()):
                found.events += 1
                if found.ended:
                    found.problems.append("an event after [DONE]")
                if event == DONE:
                    found.ended = True
                    continue
                chunk = json.loads(event)
                if "error" in chunk:
                    found.problems.append(f"error event: {chunk['error']['message']}")
                    continue
                ids.add(chunk["id"])
                found.usage = chunk.get("usage") or found.usage
                for choice in chunk["choices"]:
                    part = choice.get("delta", choice)
                    roles += bool(part.get("role"))
                    finishes += choice.get("finish_reason") is not None
                    found.finish_reason = choice.get("finish_reason") or found.finish_reason
                    found.text += part.get("content") or part.get("text") or ""
        except httpx.RemoteProtocolError as error:
            found.problems.append(f"broken off: {error}")
    if not found.ended:
        found.problems.append("no [DONE]")
    if len(ids) != 1:
        found.problems.append(f"{len(ids)} ids")
    if roles > 1 or finishes != 1:
        found.problems.append(f"{roles} roles, {finishes} finish reasons")
    return found
