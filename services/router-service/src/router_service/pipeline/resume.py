"""Continues a broken stream on another backend, so that the client sees one answer."""

from dataclasses import dataclass
from typing import Any

from router_service.pipeline.answer import Answer, Seam
from router_service.pipeline.job import Job
from router_service.routing.decision import Decision


@dataclass(slots=True)
class Continuation:
    """The next attempt of a broken stream. ``finished`` is set when only the stream's end was missing."""

    body: bytes
    seam: Seam
    finished: bytes | None
    prompt_tokens: int | None
    completion_tokens: int | None


def continuation(job: Job, decision: Decision, body: dict[str, Any], broken: Answer) -> Continuation | None:
    """How to continue, or None when this answer cannot be."""
    return None
