"""One HTTP exchange with the platform, measured from its bytes. Must not depend on the workload."""

import json
import socket
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import gevent
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError, HTTPSocketPoolResponse

from load_testing.measure.outcome import Outcome, RequestRecord, StreamMeter, judge_stream, token_counts

READ_SECONDS = 630.0  # longer than any silence of the platform: above the router's total_seconds
LOST_SECONDS = 10
"""Without an acknowledgement for this long, of a request or of a keep-alive probe, a connection is broken."""
_DEAD_PEER = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 4),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 3),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", LOST_SECONDS * 1000),
)


def detect_dead_peer(sock: socket.socket) -> None:
    """Break the connection at most 13 s after its host was last heard. Linux only; elsewhere nothing changes."""
    for level, name, value in _DEAD_PEER:
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(level, option, value)


class Client:
    """Sends chat completions to one base URL with one key, over any number of connections."""

    def __init__(self, base_url: str, api_key: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f'TARGET: "{base_url}" is not an http(s) URL ending in /v1')
        self._path = parts.path.rstrip("/") + "/chat/completions"
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._http = HTTPClient(
            parts.hostname,
            parts.port or (443 if parts.scheme == "https" else 80),
            ssl=parts.scheme == "https",
            concurrency=100_000,  # open loop: the pool must never make a request wait
            connection_timeout=10.0,
            network_timeout=READ_SECONDS,
            block_size=16 * 1024,
        )
        # No part of the platform can end a request whose edge has lost its host: only the client can.
        self._http._connection_pool.after_connect = detect_dead_peer  # type: ignore[method-assign]

    def send(
        self,
        record: RequestRecord,
        body: Mapping[str, object],
        expected_tokens: int | None,
        headers: Mapping[str, str],
        due: float,
        abort_after_events: int | None = None,
    ) -> str:
        """Send one request, fill in ``record``, and return the answer's text ("" unless it was good).

        Times count from ``due`` (on the clock of `time.perf_counter`), so they include the delay of a late
        send. Never raises for a fault of the server or the network; the record reports it.
        """
        record.late_seconds = time.perf_counter() - due
        text = ""
        try:
            response = self._http.request(
                "POST", self._path, body=json.dumps(body).encode(), headers={**self._headers, **headers}
            )
            _read_headers(record, response)
            if record.status == 200 and record.streamed:
                text = _read_stream(record, response, due, expected_tokens, abort_after_events)
            else:
                text = _read_whole(record, response, expected_tokens)
        except (OSError, HTTPParseError, gevent.Timeout) as error:
            record.outcome = Outcome.TRUNCATED if record.status == 200 else Outcome.CONNECTION
            record.detail = f"{type(error).__name__}: {error}"
        except Exception as error:  # every response gets a record, even a malformed one
            # only the type: the error's text may quote the answer
            record.outcome = Outcome.MALFORMED
            record.detail = f"the answer is not of the API's shape ({type(error).__name__})"
        record.total_seconds = time.perf_counter() - due
        return text


def _read_headers(record: RequestRecord, response: HTTPSocketPoolResponse) -> None:
    record.status = response.status_code
    record.request_id = str(response.get("x-request-id", ""))
    record.backend = str(response.get("x-route-backend", ""))
    record.rule = str(response.get("x-route-rule", ""))
    record.reason = str(response.get("x-route-reason", ""))
    attempts = str(response.get("x-route-attempts", "0"))
    record.attempts = int(attempts) if attempts.isdigit() else 0


def _read_stream(
    record: RequestRecord,
    response: HTTPSocketPoolResponse,
    due: float,
    expected_tokens: int | None,
    abort_after_events: int | None,
) -> str:
    meter = StreamMeter(due, keep_text=True)
    try:
        while event := _next_event(response):
            meter.event(event, time.perf_counter())
            if abort_after_events is not None and meter.text_events >= abort_after_events:
                response.release()
                record.outcome = Outcome.ABORTED
                return ""
        record.outcome, record.detail = judge_stream(meter, record.status, expected_tokens)
        return meter.text if record.outcome is Outcome.GOOD else ""
    except (OSError, HTTPParseError) as error:
        record.outcome, record.detail = judge_stream(meter, record.status, expected_tokens)
        if record.outcome is Outcome.GOOD:  # a terminal event without an end of the body
            record.outcome, record.detail = Outcome.TRUNCATED, f"after [DONE]: {type(error).__name__}"
        return ""
    finally:
        record.ttft_seconds = meter.ttft_seconds
        record.first_answer_seconds = meter.first_answer_seconds
        record.inter_token_seconds = meter.inter_token_seconds
        record.prompt_tokens = meter.prompt_tokens
        record.completion_tokens = meter.completion_tokens


def _next_event(response: HTTPSocketPoolResponse) -> bytes:
    """Return the next event with its blank line, b"" at the end of the body. Lines end in LF or CRLF, as SSE allows."""
    event = b""
    while line := response.readline(b"\n"):
        event += line
        if line in (b"\n", b"\r\n"):
            return event
    return b""


def _read_whole(record: RequestRecord, response: HTTPSocketPoolResponse, expected_tokens: int | None) -> str:
    body = response.read()
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if record.status != 200:
        error = answer.get("error") if isinstance(answer, dict) else None
        code = error.get("code") or error.get("type") if isinstance(error, dict) else None
        record.outcome, record.detail = Outcome.FAILED_STATUS, f"status {record.status} {code or ''}".strip()
        return ""
    if not isinstance(answer, dict) or not answer.get("choices"):
        record.outcome, record.detail = Outcome.TRUNCATED, "the answer is not a completion"
        return ""
    record.prompt_tokens, record.completion_tokens = token_counts(answer.get("usage") or {})
    if expected_tokens is not None and record.completion_tokens != expected_tokens:
        record.outcome = Outcome.TOO_FEW_TOKENS
        record.detail = f"{record.completion_tokens} tokens, expected {expected_tokens}"
        return ""
    text = str(answer["choices"][0]["message"]["content"] or "")  # null for an answer of reasoning alone
    record.outcome = Outcome.GOOD
    return text
