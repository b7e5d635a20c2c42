"""Sends a few requests through the edge and explains each from its decision record. Decides nothing."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import httpx

from platform_contracts.event_streams import DONE, events
from platform_tools.local_stack.settings import Settings

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
# Long enough for the rule `long_prompt` (3000 code points), short enough for a context of 2048 tokens.
LONG_PROMPT = (
    "Here is a log.\n"
    + "The request arrived, waited, ran and ended well. " * 62
    + "\nSummarise it in five words."
)
LEDGER = {
    "edge": "edge: authentication, checks, on the way to the router",
    "waiting_for_start": "waiting for an engine to start",
    "router_queue": "router: waiting for a free slot",
    "router": "router: features, rules, choice",
    "earlier_attempts": "earlier, failed attempts",
    "connect": "router: connection to the backend",
    "network": "network: round trip to the backend",
    "engine_queue": "engine: waiting to be scheduled",
    "prefill": "engine: prefill of the prompt",
    "relay": "router: relaying the first byte",
    "first_byte_wait": "engine: first byte (the engine reports no figures)",
    "unexplained": "unexplained (signed)",
}
RECORD_SECONDS = 3.0


class TourFailed(Exception):
    """A request of the tour had an unexpected result. The message contains the result."""


@dataclass(frozen=True)
class Answer:
    """The response to one request."""

    status: int
    headers: Mapping[str, str]
    text: str
    first_token_seconds: float | None
    error: Mapping[str, Any] = field(default_factory=dict)

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")


class Tour:
    """The tour's requests to the running stack."""

    def __init__(self, settings: Settings, key: str, out: TextIO) -> None:
        self._settings = settings
        self._key = key
        self._out = out

    def short_prompt(self) -> Answer:
        """Send a streamed chat completion; show its route and the parts of its time to first token."""
        self._title("A short question, streamed through edge, router and engine")
        answer = self._ask([{"role": "user", "content": QUESTION}])
        self._explain(answer)
        return answer

    def everything(self) -> None:
        """Run the whole tour: a short, a long, a session and a refused request."""
        self.short_prompt()
        self._title("A long prompt: the rule `long_prompt` sends it to another pool")
        self._explain(self._ask([{"role": "user", "content": LONG_PROMPT}], shown=QUESTION_SHORTENED))
        self._title("A session: its second question goes where the first one went")
        session = {"x-session-id": f"tour-{time.time_ns()}"}
        for question in ("Name a colour.", "Name another colour."):
            self._explain(self._ask([{"role": "user", "content": question}], session), ledger=False)
        self._title("A request without a key: the edge refuses it, the router never sees it")
        self._refused({"model": MODEL, "messages": []}, expected=401, key=None)
        self._title("A malformed request: refused at the edge as well")
        self._refused({"model": MODEL, "messages": "not a list"}, expected=400, key=self._key)

    # -- asking ----------------------------------------------------------------------------------

    def _ask(
        self,
        messages: list[dict[str, str]],
        headers: Mapping[str, str] | None = None,
        shown: str | None = None,
    ) -> Answer:
        self._say(f"  you    {shown or messages[-1]['content']}")
        self._say("  model  ", end="")
        body = {"model": MODEL, "messages": messages, "max_tokens": 32, "temperature": 0, "stream": True}
        started = time.monotonic()
        pieces: list[str] = []
        first: float | None = None
        with httpx.stream(
            "POST",
            self._settings.url("EDGE_PORT", "/v1/chat/completions"),
            json=body,
            headers={"authorization": f"Bearer {self._key}", **(headers or {})},
            timeout=httpx.Timeout(120.0),
        ) as response:
            if response.status_code != 200:
                raise TourFailed(f"the edge answers {response.status_code}: {response.read().decode()[:500]}")
            finished = False
            for event in events(response.iter_bytes()):
                finished = event == DONE
                if finished:
                    break
                document = json.loads(event)
                if "error" in document:
                    raise TourFailed(f"the stream ended with an error: {document['error']}")
                for choice in document.get("choices", []):
                    piece = choice.get("delta", {}).get("content") or ""
                    if piece and first is None:
                        first = time.monotonic() - started
                    pieces.append(piece)
                    self._say(piece, end="")
            self._say("")
            if not finished:
                raise TourFailed("the stream ended without [DONE]")
            return Answer(response.status_code, dict(response.headers), "".join(pieces), first)

    def _refused(self, body: Mapping[str, Any], expected: int, key: str | None) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        response = httpx.post(
            self._settings.url("EDGE_PORT", "/v1/chat/completions"), json=body, headers=headers, timeout=10.0
        )
        if response.status_code != expected:
            raise TourFailed(f"expected {expected} and got {response.status_code}: {response.text[:300]}")
        error = response.json()["error"]
        self._say(f"  status {response.status_code}   {error['type']}: {error['message']}")
        self._say(f"  x-request-id {response.headers.get('x-request-id', '-')}")

    # -- explaining ------------------------------------------------------------------------------

    def _explain(self, answer: Answer, *, ledger: bool = True) -> None:
        record = self.record(answer.request_id)
        headers = answer.headers
        self._say("")
        self._say(f"  backend  {headers.get('x-route-backend', '-')}   pool {record.get('pool', '-')}")
        self._say(f"  rule     {headers.get('x-route-rule', '-')}")
        tries = headers.get("x-route-attempts", "-")
        self._say(f"  reason   {headers.get('x-route-reason', '-')}   attempts {tries}")
        for candidate in record.get("candidates") or []:
            why = candidate.get("rejected_because")
            verdict = "eligible" if candidate.get("eligible") else f"rejected: {why}"
            backend, busy = candidate.get("backend"), candidate.get("in_flight")
            self._say(f"           {backend}: {verdict}, {busy} in flight")
        if ledger:
            for line in ledger_table(record):
                self._say(line)
        self._say(f"  again    .venv/bin/router-service explain {answer.request_id}")

    def record(self, request_id: str) -> dict[str, Any]:
        """Return the router's decision record of a request.

        Raises:
            TourFailed: there is none.
        """
        url = self._settings.url("ROUTER_PORT", f"/debug/decisions/{request_id}")
        deadline = time.monotonic() + RECORD_SECONDS
        while True:
            response = httpx.get(url, timeout=5.0)
            if response.status_code == 200:
                record: dict[str, Any] = response.json()
                return record
            if time.monotonic() > deadline:
                raise TourFailed(f"{url} answers {response.status_code}: there is no decision record")
            time.sleep(0.1)

    # -- printing --------------------------------------------------------------------------------

    def _title(self, text: str) -> None:
        width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        self._say(f"\n{text}\n{'-' * min(len(text), width)}")

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, file=self._out, flush=True)


QUESTION_SHORTENED = f"({len(LONG_PROMPT)} characters) ... {LONG_PROMPT.splitlines()[-1]}"


def ledger_table(record: Mapping[str, Any]) -> list[str]:
    """Return the ledger as lines: one for each measured part, then their sum."""
    ledger = record.get("ttft_ledger_ms") or {}
    parts = {name: ledger[name] for name in LEDGER if isinstance(ledger.get(name), int | float)}
    total = record.get("first_token_ms")
    lines = ["", "  time to first token"]
    longest = max((abs(value) for value in parts.values()), default=0.0) or 1.0
    for name, value in parts.items():
        bar = "#" * round(28 * abs(value) / longest)
        lines.append(f"    {value:10.2f} ms  {LEDGER[name]:58} {bar}")
    if isinstance(total, int | float):
        lines.append(
            f"    {total:10.2f} ms  measured: from the edge's stamp to the first byte for the client"
        )
    return lines
