"""Media by URL: an engine would fetch it from inside the network, so the edge admits inline media and listed hosts only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.servers.edges import CHAT, Edge, running_edge
from harness.servers.recording_upstream import RecordingUpstream

pytestmark = [pytest.mark.service, pytest.mark.untimed]

INSIDE = "http://169.254.169.254/latest/meta-data/"
INLINE = "data:image/png;base64,iVBORw0KGgo="


def message(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"model": "m", "max_tokens": 5, "messages": [{"role": role, "content": list(parts)}]}


def response(*parts: Any) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": list(parts)}]}


def every_form(url: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return each place where vLLM's request models take a URL: what, path and body."""
    image = {"type": "image_url", "image_url": {"url": url}}
    found = [
        (f"{kind}, {form}", CHAT, message({"type": kind, kind: value}))
        for kind in ("image_url", "video_url", "audio_url")
        for form, value in (("an object", {"url": url}), ("a string", url))
    ]
    found += [
        ("a part without a type", CHAT, message({"image_url": url})),
        ("a second part", CHAT, message({"type": "text", "text": "hi"}, image)),
        ("a tool's answer", CHAT, message(image, role="tool")),
        ("an image of a response", "/v1/responses", response({"type": "input_image", "image_url": url})),
        (
            "the output of a function",
            "/v1/responses",
            {"model": "m", "input": [{"type": "function_call_output", "output": [{"image_url": url}]}]},
        ),
        ("an image of Anthropic's", "/v1/messages", message({"source": {"type": "url", "url": url}})),
        (
            "an image in a tool's result",
            "/v1/messages",
            message({"type": "tool_result", "content": [{"type": "image", "source": {"url": url}}]}),
        ),
        (
            "an embedding",
            "/v1/embeddings",
            {"model": "m", "messages": [{"role": "user", "content": [image]}]},
        ),
        (
            "a batch of embeddings",
            "/v1/embeddings",
            {"model": "m", "messages": [[{"role": "user", "content": [image]}]]},
        ),
        ("a query", "/v1/rerank", {"model": "m", "query": {"content": [image]}, "documents": ["a"]}),
        ("documents", "/v1/rerank", {"model": "m", "query": "q", "documents": {"content": [image]}}),
        ("a document", "/v1/rerank", {"model": "m", "query": "q", "documents": [{"content": [image]}]}),
        ("a text", "/v1/score", {"model": "m", "text_1": "a", "text_2": {"content": [image]}}),
        ("tokens of messages", "/tokenize", message(image)),
    ]
    return found


@pytest.mark.parametrize(
    ("what", "path", "body"), every_form(INSIDE), ids=[case[0] for case in every_form(INSIDE)]
)
def test_a_url_is_refused_wherever_an_engine_would_fetch_it(
    edge: Edge, upstream: RecordingUpstream, what: str, path: str, body: dict[str, Any]
) -> None:
    answer = edge.post(body, path)
    assert answer.status_code == 400, what
    assert "data: URL" in answer.json()["error"]["message"]
    assert upstream.count == 0


@pytest.mark.parametrize(
    ("what", "path", "body"), every_form(INLINE), ids=[case[0] for case in every_form(INLINE)]
)
def test_inline_media_pass(
    edge: Edge, upstream: RecordingUpstream, what: str, path: str, body: dict[str, Any]
) -> None:
    assert edge.post(body, path).status_code == 200, what


@pytest.mark.parametrize(
    "url",
    [
        " data:image/png",
        "",
        "file:///etc/passwd",
        "//inside/",
        "HTTP://inside/",
        "ftp://inside/",
        "javascript:data:",
    ],
)
def test_any_other_scheme_is_refused(edge: Edge, upstream: RecordingUpstream, url: str) -> None:
    assert edge.post(message({"image_url": {"url": url}})).status_code == 400


def test_escaped_spellings_are_refused(edge: Edge, upstream: RecordingUpstream) -> None:
    body = (
        b'{"model":"m","messages":[{"content":[{"\\u0069mage_url":{"\\u0075rl":"\\u0068ttp://inside/"}}]}]}'
    )
    assert edge.post(body).status_code == 400
    assert upstream.count == 0


@pytest.mark.parametrize(
    "body",
    [
        message({"type": "text", "text": "see http://example.com/image_url"}),
        message(
            {
                "type": "tool_use",
                "name": "f",
                "input": {"image_url": "http://example.com/", "url": "http://a/"},
            }
        ),
        message({"type": "tool_use", "name": "f", "input": {"source": {"url": "http://example.com/"}}}),
        message(
            {"type": "tool_use", "name": "f", "input": {"content": [{"image_url": "http://example.com/"}]}}
        ),
        {**message("x"), "tools": [{"type": "function", "function": {"url": "http://example.com/"}}]},
        {**message("x"), "metadata": {"url": "http://example.com/", "image_url": "http://example.com/"}},
    ],
)
def test_urls_that_no_engine_fetches_pass(
    edge: Edge, upstream: RecordingUpstream, body: dict[str, Any]
) -> None:
    assert edge.post(body).status_code == 200


@pytest.fixture(scope="module")
def trusting(module_upstream: RecordingUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    settings = {"bounds": {"media_hosts": ["pictures.example"]}}
    with running_edge(tmp_path_factory.mktemp("media"), module_upstream.port, settings) as running:
        yield running


@pytest.mark.parametrize(
    "url",
    [
        "https://pictures.example/a.png", "http://PICTURES.example", "https://pictures.example:8443/a",
        "https://pictures.example?a=b", INLINE,
    ],
)  # fmt: skip
def test_a_listed_host_is_admitted(trusting: Edge, upstream: RecordingUpstream, url: str) -> None:
    assert trusting.post(message({"image_url": {"url": url}})).status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        INSIDE, "https://pictures.example.evil/", "https://evil/pictures.example", "https://pictures.example@evil/",
        "https://pictures.example:80@evil/", "https://pictures.example\\@evil/", "https://evil#pictures.example",
        "https://pictures.example#@evil/", "file://pictures.example/etc/passwd", "https:/pictures.example/",
    ],
)  # fmt: skip
def test_a_url_that_only_resembles_a_listed_host_is_refused(
    trusting: Edge, upstream: RecordingUpstream, url: str
) -> None:
    assert trusting.post(message({"image_url": {"url": url}})).status_code == 400
    assert upstream.count == 0


def test_the_default_is_the_safe_one(tmp_path: Path) -> None:
    from edge_gateway.settings import Bounds

    assert Bounds().media_hosts == []
