"""One streamed request through the edge: the proof that a deployment answers."""

from __future__ import annotations

import contextlib
import re
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from platform_contracts.event_streams import DONE, chunks, events
from platform_tools.deploy.releases import BadRequest


@contextlib.contextmanager
def forwarded(kubectl: Sequence[str], log: Path, port: int, scheme: str) -> Iterator[str]:
    """Forward the edge's Service port to this machine for a while; yield its URL.

    Raises:
        BadRequest: kubectl did not open the port.
    """
    command = [*kubectl, "-n", "llm", "port-forward", "service/edge-gateway", f":{port}"]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise BadRequest(f"kubectl port-forward to the edge failed: {log.read_text().strip()}")
            yield f"{scheme}://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def ask(url: str, key: str, verify: ssl.SSLContext | bool = True) -> str:
    """Request a few streamed words from the first model; return its backend and the words.

    ``verify=False`` checks no certificate: a forwarded port is secured by kubectl, and the edge's certificate is for
    the name that clients use.

    Raises:
        BadRequest: not 200, or the stream did not end with [DONE].
    """
    headers = {"authorization": f"Bearer {key}"}
    try:
        with httpx.Client(
            base_url=url, headers=headers, timeout=120, trust_env=False, verify=verify
        ) as client:
            models = client.get("/v1/models")
            if models.status_code != 200:
                raise BadRequest(f"GET /v1/models: {models.status_code} {models.text[:300]}")
            model = models.json()["data"][0]["id"]
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
                "max_tokens": 24,
                "stream": True,
            }
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                answer.read()
    except httpx.HTTPError as error:
        raise BadRequest(f"the edge at {url}: {type(error).__name__}: {error}") from None
    if answer.status_code != 200:
        raise BadRequest(f"POST /v1/chat/completions: {answer.status_code} {answer.text[:300]}")
    found = list(events([answer.content]))
    last = found[-1] if found else "nothing"
    if last != DONE:
        raise BadRequest(f"the stream did not end with [DONE] but with {last[:200]}")
    words = "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks(answer.content)
        for choice in chunk["choices"]
    )
    backend = answer.headers.get("x-route-backend", "")
    return f"{model} on {backend or 'unknown'}: {words.strip()!r} (request {answer.headers.get('x-request-id', '?')})"
