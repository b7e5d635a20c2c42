"""Load generator in a separate process: sends at a constant rate and classifies every response. The load is
open loop: each request has a fixed start time, independent of earlier ones. It appends one JSON line per
finished request to a file. It sends until its standard input is closed, then waits for the last responses.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx

from platform_contracts.event_streams import DONE, EventReader

PROMPT = "Tell me of the number {number}"
SILENCE_SECONDS = 40.0


class Ending(StrEnum):
    """The outcome of a request for its client. No fault may cause ``LOST``."""

    GOOD = "good"  # whole: every token, the terminal event, a proper end of the body
    ERROR_EVENT = "error_event"  # a stream that ends with an error event
    REFUSED = "refused"  # 429 or 503 with an OpenAI error and retry-after
    ERROR = "error"  # another status with an OpenAI error
    BROKEN = "broken"  # the connection broke, which every client notices
    LOST = "lost"  # no response, a truncated body with a clean end, or an error of unknown shape


@dataclass(slots=True)
class Answer:
    """One request. Times are epoch seconds; ``first_at`` is when its first body byte came."""

    sent_at: float
    late_seconds: float
    resumable: bool
    ended_at: float = 0.0
    first_at: float | None = None
    ending: Ending = Ending.LOST
    status: int = 0
    backend: str = ""
    attempts: str = ""
    request_id: str = ""
    detail: str = ""

    @property
    def ttft_seconds(self) -> float | None:
        return None if self.first_at is None else self.first_at - self.sent_at

    @property
    def total_seconds(self) -> float:
        return self.ended_at - self.sent_at


def read_answers(path: Path) -> list[Answer]:
    """Return the requests that have ended so far, in sending order."""
    answers = []
    for line in path.read_text().splitlines() if path.exists() else ():
        fields = json.loads(line)
        answers.append(Answer(**{**fields, "ending": Ending(fields["ending"])}))
    return sorted(answers, key=lambda answer: answer.sent_at)


def sent_file(answers: Path) -> Path:
    """Return the file for the number of sent requests, next to the file of answers."""
    return answers.with_suffix(".sent")


async def ask(http: httpx.AsyncClient, options: argparse.Namespace, number: int, answer: Answer) -> None:
    """Send one request and fill in ``answer``."""
    body: dict[str, Any] = {
        "model": options.model,
        "messages": [
            {"role": "user", "content": options.said[number % len(options.said)].format(number=number)}
        ],
        "max_tokens": options.tokens,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"authorization": f"Bearer {options.key}"}
    if answer.resumable:
        headers["x-resume"] = "yes"
    if options.sessions:
        headers["x-session-id"] = f"session-{number % options.sessions}"
    seen: list[str] = []
    try:
        async with http.stream("POST", options.url, json=body, headers=headers) as response:
            answer.status = response.status_code
            answer.request_id = response.headers.get("x-request-id", "")
            answer.backend = response.headers.get("x-route-backend", "")
            answer.attempts = response.headers.get("x-route-attempts", "")
            if response.status_code == 200:
                events = EventReader()
                async for piece in response.aiter_bytes():
                    if found := events.feed(piece):
                        answer.first_at = answer.first_at or time.time()
                        seen += found
                answer.ending, answer.detail = judge(seen, options.tokens)
            else:
                answer.ending, answer.detail = judge_status(response.headers, await response.aread())
    except httpx.HTTPError as error:
        answer.detail = f"{type(error).__name__}: {error}"
        if error_of(seen):
            answer.ending, answer.detail = Ending.ERROR_EVENT, error_of(seen)
        elif answer.status == 200 and not isinstance(error, httpx.TimeoutException):
            answer.ending = Ending.BROKEN
    except Exception as error:  # a malformed response is still a response, and counts
        answer.ending, answer.detail = Ending.LOST, f"no proper answer: {type(error).__name__}: {error}"
    answer.ended_at = time.time()


def error_of(events: list[str]) -> str:
    """Return the code of the error event among ``events``, or ""."""
    for event in events:
        if event.startswith('{"error"'):
            error = json.loads(event)["error"]
            return str(error.get("code") or error.get("type"))
    return ""


def judge(events: list[str], tokens: int) -> tuple[Ending, str]:
    """Classify a body that ended properly."""
    if error := error_of(events):
        return Ending.ERROR_EVENT, error
    if not events or events[-1] != DONE:
        return Ending.LOST, f"a clean end without [DONE] after {len(events)} events"
    usages = [json.loads(event).get("usage") for event in events[:-1]]
    said = next((usage["completion_tokens"] for usage in reversed(usages) if usage), None)
    if said != tokens:
        return Ending.LOST, f"{said} tokens of {tokens} and [DONE]"
    return Ending.GOOD, ""


def judge_status(headers: httpx.Headers, body: bytes) -> tuple[Ending, str]:
    """Classify a response whose status is not 200."""
    try:
        code = str(json.loads(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return Ending.LOST, f"not an OpenAI error: {body[:80]!r}"
    return (Ending.REFUSED if "retry-after" in headers else Ending.ERROR), code


async def run(options: argparse.Namespace) -> None:
    """Send at the rate until standard input closes."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=20)
    timeout = httpx.Timeout(options.silence_seconds, connect=5.0)
    tasks: set[asyncio.Task[None]] = set()
    with options.out.open("a", buffering=1) as out:

        async def one(number: int, answer: Answer) -> None:
            await ask(http, options, number, answer)
            out.write(json.dumps(asdict(answer)) + "\n")

        async with httpx.AsyncClient(timeout=timeout, limits=limits) as http:
            started, number = time.monotonic(), 0
            # Random, not in turn: a fault in step with the requests would hit only one kind.
            lot = random.Random(1)
            while not over.is_set():
                due = started + number / options.rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                answer = Answer(time.time(), time.monotonic() - due, resumable=lot.random() < 0.6)
                task = asyncio.create_task(one(number, answer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
            await asyncio.gather(*tasks)
    sent_file(options.out).write_text(str(number))


def main() -> None:
    """Run the load that the command line describes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", required=True, help="of /v1/chat/completions")
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--prompts", type=Path, help="file with one prompt per line, used in turn")
    parser.add_argument("--sessions", type=int, default=0, help="number of sessions; 0: no session ids")
    parser.add_argument(
        "--silence-seconds",
        type=float,
        default=SILENCE_SECONDS,
        help="without data, the request is unanswered",
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.said = options.prompts.read_text().splitlines() if options.prompts else [PROMPT]
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
