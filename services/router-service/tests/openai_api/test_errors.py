"""Every error has OpenAI's shape, whatever the engine wrote."""

import orjson
import pytest

from router_service.openai_api.errors import error_body, error_event, translated_error


def test_an_error_has_all_four_fields() -> None:
    assert orjson.loads(error_body(404, "no such model", "model_not_found", "model")) == {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_an_error_event_is_one_whole_event() -> None:
    event = error_event("gone", "upstream_disconnect")
    assert event.startswith(b'data: {"error":')
    assert event.endswith(b"}\n\n")
    assert event.count(b"\n\n") == 1


@pytest.mark.parametrize(
    ("status", "body", "message", "param"),
    [
        (400, b'{"object":"error","message":"too long","type":"BadRequestError"}', "too long", None),
        (
            422,
            b'{"detail":[{"loc":["body","messages"],"msg":"Field required"}]}',
            "Field required",
            "messages",
        ),
        (404, b'{"detail":"Not Found"}', "Not Found", None),
        (500, b'{"error":"boom"}', "boom", None),
        (500, b"Internal Server Error", "Internal Server Error", None),
        (502, b"<html>bad gateway</html>", "the backend answered 502", None),
        (500, b"", "the backend answered 500", None),
        (500, b"[1,2]", "the backend answered 500", None),
        (500, b"\xff\xfe", "\ufffd\ufffd", None),
    ],
)
def test_other_shapes_are_translated(status: int, body: bytes, message: str, param: str | None) -> None:
    error = orjson.loads(translated_error(status, body))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["message"], error["param"], error["code"]) == (message, param, str(status))


def test_an_openai_error_passes_unchanged() -> None:
    body = b'{"error": {"message": "m", "type": "BadRequestError", "param": null, "code": 400}}'
    assert translated_error(400, body) is body
