"""Bodies, and whole requests as bytes, that the edge must refuse or forward."""

from typing import Any

from harness.servers.edges import CHAT, CLIENT_KEY, GOOD_BODY

# Bodies.

MESSAGE = b'"messages":[{"role":"user","content":"hi"}]'


def chat(extra: bytes = b"", model: bytes = b'"model":"m",', messages: bytes = MESSAGE) -> bytes:
    """Return a chat body with raw JSON parts inserted."""
    return b"{" + model + messages + extra + b"}"


def with_content(content: bytes) -> bytes:
    """Return a chat body whose only text is ``content`` as it is."""
    return chat(messages=b'"messages":[{"role":"user","content":"' + content + b'"}]')


# The error, the body, and the field that the response must name (None: no field).
MALFORMED: list[tuple[str, bytes, str | None]] = [
    ("nothing", b"", None),
    ("only spaces", b"   \n\t ", None),
    ("an array", b"[]", None),
    ("a string", b'"hi"', None),
    ("a number", b"42", None),
    ("null", b"null", None),
    ("true", b"true", None),
    ("an empty object", b"{}", "model"),
    ("cut off at once", b"{", None),
    ("cut off in a key", b'{"mod', None),
    ("cut off after a key", b'{"model"', None),
    ("cut off after a colon", b'{"model":', None),
    ("cut off in a value", b'{"model":"m', None),
    ("cut off before the end", chat()[:-1], None),
    ("a comma at the end", chat(b","), None),
    ("a comma at the start", b"{," + chat()[1:], None),
    ("two commas", chat(b',,"x":1'), None),
    ("no comma", chat(b' "x":1'), None),
    ("no colon", chat(b',"x" 1'), None),
    ("an equals sign", chat(b',"x"=1'), None),
    ("a comma at the end of an array", chat(b',"stop":["a",]'), None),
    ("a wrong bracket", chat(b',"stop":["a"}'), None),
    ("a bracket too many", chat() + b"}", None),
    ("two objects", chat() + chat(), None),
    ("text after the end", chat() + b" x", None),
    ("a NUL after the end", chat() + b"\x00", None),
    ("a NUL in between", b"{\x00" + chat()[1:], None),
    ("a byte order mark", b"\xef\xbb\xbf" + chat(), None),
    ("UTF-16", chat().decode().encode("utf-16"), None),
    ("single quotes", chat().replace(b'"', b"'"), None),
    ("a key without quotes", chat(b",x:1"), None),
    ("a number as a key", chat(b",1:1"), None),
    ("a comment", chat(b"/* hi */"), None),
    ("NaN", chat(b',"temperature":NaN'), None),
    ("Infinity", chat(b',"temperature":Infinity'), None),
    ("minus Infinity", chat(b',"temperature":-Infinity'), None),
    ("True", chat(b',"stream":True'), None),
    ("undefined", chat(b',"x":undefined'), None),
    ("a leading zero", chat(b',"n":01'), None),
    ("a leading plus", chat(b',"n":+1'), None),
    ("a lone minus", chat(b',"n":-'), None),
    ("a point without digits", chat(b',"temperature":1.'), None),
    ("a point without a zero", chat(b',"temperature":.5'), None),
    ("an exponent without digits", chat(b',"temperature":1e'), None),
    ("hexadecimal", chat(b',"n":0x10'), None),
    ("a number beyond every double", chat(b',"x":1e999'), None),
    ("an exponent without end", chat(b',"x":1e-99999'), None),
    ("a very long number", chat(b',"x":' + b"1" * 5000), None),
    ("an unknown escape", with_content(b"\\x41"), None),
    ("half a unicode escape", with_content(b"\\u12"), None),
    ("a wrong unicode escape", with_content(b"\\u12g4"), None),
    ("a lone high surrogate", with_content(b"\\ud800"), None),
    ("a lone low surrogate", with_content(b"\\udc00"), None),
    ("surrogates in the wrong order", with_content(b"\\udc00\\ud800"), None),
    ("a high surrogate and a letter", with_content(b"\\ud800\\u0041"), None),
    ("a raw newline in a string", with_content(b"a\nb"), None),
    ("a raw NUL in a string", with_content(b"a\x00b"), None),
    ("a raw tab in a string", with_content(b"a\tb"), None),
    ("a lone continuation byte", with_content(b"\x80"), None),
    ("an overlong slash", with_content(b"\xc0\xaf"), None),
    ("an overlong NUL", with_content(b"\xe0\x80\x80"), None),
    ("a surrogate in UTF-8", with_content(b"\xed\xa0\x80"), None),
    ("beyond the last code point", with_content(b"\xf4\x90\x80\x80"), None),
    ("a cut UTF-8 sequence", with_content(b"\xe2\x82"), None),
    ("latin-1", with_content("é".encode("latin-1")), None),
    ("0xff", with_content(b"\xff"), None),
    ("the same key twice", chat(b',"model":"other"'), "model"),
    ("the same key in two spellings", chat(b',"\\u006dodel":"other"'), "model"),
    (
        "the same key twice, deeper",
        chat(messages=b'"messages":[{"role":"user","role":"system"}]'),
        "role",
    ),
    (
        "the same key twice, once with an escape after an escaped backslash",
        chat(b',"\\\\ud83d\\u0041":1,"\\\\ud83dA":2'),
        None,
    ),
    ("65 arrays in each other", chat(b',"x":' + b"[" * 65 + b"]" * 65), None),
    ("10,000 objects in each other", chat(b',"x":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000), None),
    ("120,000 empty lists", chat(b',"x":[' + b",".join([b"[]"] * 120_000) + b"]"), None),
    ("30,000 nested lists", chat(b',"x":[' + b",".join([b"[[[[]]]]"] * 30_000) + b"]"), None),
    ("60,000 keys", chat(b',"x":{' + b",".join(b'"%d":1' % n for n in range(60_000)) + b"}"), None),
    ("10,000 open brackets", b"[" * 10_000, None),
]

# The error, the path, the body as a value, and the field that the response must name.
ILL_TYPED: list[tuple[str, str, dict[str, Any], str]] = [
    ("no model", CHAT, {"messages": [{}]}, "model"),
    ("a number as model", CHAT, {**GOOD_BODY, "model": 5}, "model"),
    ("null as model", CHAT, {**GOOD_BODY, "model": None}, "model"),
    ("an empty model", CHAT, {**GOOD_BODY, "model": ""}, "model"),
    ("a list as model", CHAT, {**GOOD_BODY, "model": ["m"]}, "model"),
    ("no messages", CHAT, {"model": "m"}, "messages"),
    ("no message", CHAT, {"model": "m", "messages": []}, "messages"),
    ("messages is a string", CHAT, {"model": "m", "messages": "hi"}, "messages"),
    ("messages is an object", CHAT, {"model": "m", "messages": {"role": "user"}}, "messages"),
    ("messages is null", CHAT, {"model": "m", "messages": None}, "messages"),
    ("a message is a string", CHAT, {"model": "m", "messages": [{}, "hi"]}, "messages[1]"),
    ("a message is a list", CHAT, {"model": "m", "messages": [[]]}, "messages[0]"),
    ("too many messages", CHAT, {"model": "m", "messages": [{}] * 10_001}, "messages"),
    ("no tokens", CHAT, {**GOOD_BODY, "max_tokens": 0}, "max_tokens"),
    ("minus one token", CHAT, {**GOOD_BODY, "max_tokens": -1}, "max_tokens"),
    ("half a token", CHAT, {**GOOD_BODY, "max_tokens": 0.5}, "max_tokens"),
    ("a float of tokens", CHAT, {**GOOD_BODY, "max_tokens": 10.0}, "max_tokens"),
    ("tokens as text", CHAT, {**GOOD_BODY, "max_tokens": "10"}, "max_tokens"),
    ("more tokens than exist", CHAT, {**GOOD_BODY, "max_tokens": 10**30}, "max_tokens"),
    ("no completion tokens", CHAT, {**GOOD_BODY, "max_completion_tokens": 0}, "max_completion_tokens"),
    ("a model of 257 bytes", CHAT, {**GOOD_BODY, "model": "m" * 257}, "model"),
    ("too cold", CHAT, {**GOOD_BODY, "temperature": -0.1}, "temperature"),
    ("temperature as text", CHAT, {**GOOD_BODY, "temperature": "1"}, "temperature"),
    ("temperature as a truth value", CHAT, {**GOOD_BODY, "temperature": True}, "temperature"),
    ("no choice", CHAT, {**GOOD_BODY, "n": 0}, "n"),
    ("too many choices", CHAT, {**GOOD_BODY, "n": 129}, "n"),
    ("stream as text", CHAT, {**GOOD_BODY, "stream": "true"}, "stream"),
    ("no prompt", "/v1/completions", {"model": "m"}, "prompt"),
    ("an empty list of prompts", "/v1/completions", {"model": "m", "prompt": []}, "prompt"),
    ("a number as prompt", "/v1/completions", {"model": "m", "prompt": 1}, "prompt"),
    ("no input", "/v1/embeddings", {"model": "m"}, "input"),
    ("no texts to compare", "/v1/score", {"model": "m"}, "queries"),
    ("no messages to count", "/v1/messages/count_tokens", {"model": "m"}, "messages"),
    ("no tokens to read", "/detokenize", {"model": "m"}, "tokens"),
    ("an object as input", "/v1/embeddings", {"model": "m", "input": {}}, "input"),
    ("no input of a response", "/v1/responses", {"model": "m"}, "input"),
    ("no max_tokens of a message", "/v1/messages", {"model": "m", "messages": [{}]}, "max_tokens"),
    ("no documents", "/v1/rerank", {"model": "m", "query": "q"}, "documents"),
    ("neither prompt nor messages", "/tokenize", {"model": "m"}, "prompt"),
]

GOOD: list[tuple[str, str, bytes]] = [
    ("the least", CHAT, chat()),
    ("space everywhere", CHAT, b' \t\r\n{ "model" : "m" , "messages" : [ { } , { "a" : [ ] } ] } \n'),
    (
        "unknown fields",
        CHAT,
        chat(b',"ignore_eos":true,"min_tokens":5,"stream_options":{"include_usage":true}'),
    ),
    (
        "nulls where absence is meant",
        CHAT,
        chat(b',"max_tokens":null,"temperature":null,"n":null,"stream":null'),
    ),
    ("every escape", CHAT, with_content(b'\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\ud83d\\ude00')),
    ("every length of UTF-8", CHAT, with_content("aé€😀\U0010ffff\u2028".encode())),
    ("DEL and high controls", CHAT, with_content(b"\x7f\xc2\x80")),
    (
        "numbers of every form",
        CHAT,
        chat(b',"x":[0,-0,1e-400,1e308,1E-9999,1.5,-1.5e3,1E+2,2e-3,123456789012345678901234567890]'),
    ),
    ("limits themselves", CHAT, chat(b',"temperature":2,"n":128,"max_tokens":1000000')),
    ("zero temperature", CHAT, chat(b',"temperature":0')),
    ("64 levels", CHAT, chat(b',"x":' + b"[" * 63 + b"]" * 63)),
    ("the same key in two objects", CHAT, chat(messages=b'"messages":[{"role":"a"},{"role":"b"}]')),
    ("keys that differ only in spelling", CHAT, chat(b',"Model":1,"model ":2')),
    ("an escaped key", CHAT, chat(model=b'"\\u006dodel":"m",')),
    ("a text prompt", "/v1/completions", b'{"model":"m","prompt":""}'),
    ("token ids", "/v1/completions", b'{"model":"m","prompt":[1,2,3]}'),
    ("many prompts", "/v1/completions", b'{"model":"m","prompt":[[1,2],[3]]}'),
    ("embedded prompts", "/v1/completions", b'{"model":"m","prompt_embeds":"AAAA"}'),
    (
        "an embedding of messages",
        "/v1/embeddings",
        b'{"model":"m","messages":[{"role":"user","content":"hi"}]}',
    ),
    ("a hot answer", CHAT, chat(b',"temperature":3')),
    ("a count of tokens", "/v1/messages/count_tokens", b'{"model":"m",' + MESSAGE + b"}"),
    ("a comparison", "/v1/score", b'{"model":"m","text_1":"a","text_2":["b"]}'),
    ("an embedding", "/v1/embeddings", b'{"model":"m","input":["a","b"]}'),
    ("a response", "/v1/responses", b'{"model":"m","input":"hi","max_output_tokens":16}'),
    (
        "a message",
        "/v1/messages",
        b'{"model":"m","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}',
    ),
    ("a ranking", "/v1/rerank", b'{"model":"m","query":"q","documents":["a"]}'),
    ("tokens of a prompt", "/tokenize", b'{"model":"m","prompt":"hi"}'),
    ("tokens of messages", "/tokenize", b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'),
    ("a megabyte, nearly", CHAT, with_content(b"x" * 990_000)),
]

# Whole requests.

KEY = f"authorization: Bearer {CLIENT_KEY}\r\n".encode()
JSON = b"content-type: application/json\r\n"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
LENGTH = b"content-length: %d\r\n" % len(BODY)


def get(path: bytes, extra: bytes = b"", host: bytes = b"Host: a\r\n") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + host + KEY + extra + b"\r\n"


CHUNKED = b"transfer-encoding: chunked\r\n"
H2C = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"
IN_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
CHAT_LINE = "POST /v1/chat/completions HTTP/1.1"


def post(extra: bytes = b"", body: bytes = BODY, length: bytes = LENGTH) -> bytes:
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + KEY + JSON + length + extra + b"\r\n" + body


SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n" + KEY + b"\r\n"

# A description, the bytes to send, and the expected statuses.
RAW_REFUSED: list[tuple[str, bytes, set[int]]] = [
    ("a path in the Host", get(b"/v1/models", host=b"Host: a/health?x=\r\n"), {400}),
    ("no Host", get(b"/v1/models", host=b""), {400}),
    ("an escaped slash", get(b"/v1%2fmodels"), {404}),
    ("an escaped slash in the folder", get(b"/v1/models/..%2f..%2fmetrics"), {404}),
    ("a hidden dot segment in a model", get(b"/v1/models/a%2f..%2f..%2fmetrics"), {404}),
    ("a slash escaped twice in a model", get(b"/v1/models/a%252fb"), {404}),
    ("a model's name that is too long", get(b"/v1/models/" + b"a" * 257), {400}),
    ("an escaped slash in a response's id", get(b"/v1/responses/resp_a%2fcancel"), {404}),
    ("a dot segment after a response", get(b"/v1/responses/resp_a/../../../metrics"), {404}),
    ("an escaped dot segment as an id", get(b"/v1/responses/%2e%2e%2fmetrics"), {404}),
    ("a dot in a response's id", get(b"/v1/responses/resp_a.b"), {404}),
    ("a folder under a response", get(b"/v1/responses/resp_a/input_items"), {404}),
    ("a response's id that is too long", get(b"/v1/responses/" + b"a" * 129), {400}),
    ("DELETE of a response", get(b"/v1/responses/resp_a").replace(b"GET", b"DELETE", 1), {405}),
    ("GET of a cancellation", get(b"/v1/responses/resp_a/cancel"), {405}),
    ("a body with a response's id", get(b"/v1/responses/resp_a", b"content-length: 5\r\n") + b"hello", {400}),
    ("an escaped backslash", get(b"/v1%5cmodels"), {404}),
    (
        "a length and a transfer coding",
        post(b"transfer-encoding: chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        {400},
    ),
    ("two lengths", post(b"content-length: 5\r\n"), {400}),
    ("a negative length", post(length=b"content-length: -5\r\n"), {400}),
    ("a length with a sign", post(length=b"content-length: +5\r\n"), {400}),
    ("a NUL in a header", get(b"/v1/models", b"x-a: b\x00c\r\n"), {400}),
    ("a bare newline in a header", get(b"/v1/models", b"x-a: b\nx-client-id: evil\r\n"), {200, 400}),
    ("a space before the colon", get(b"/v1/models", b"x-a : b\r\n"), {400}),
    ("an unknown transfer coding", post(b"transfer-encoding: xchunked\r\n", length=b""), {400, 501}),
    ("a transfer coding twice", post(b"transfer-encoding: chunked, chunked\r\n", length=b""), {400, 501}),
    ("a header of 30 kB", get(b"/v1/models", b"x-a: " + b"a" * 30_000 + b"\r\n"), {431}),
    ("120 headers", get(b"/v1/models", b"".join(b"x-%d: a\r\n" % n for n in range(120))), {431}),
    ("a path of 20 kB", get(b"/v1/" + b"a" * 20_000), {431}),
    ("not HTTP", b"hello\r\n\r\n", {400}),
    ("a wrong version", b"GET /v1/models HTTP/9.9\r\nHost: a\r\n\r\n", {400, 401, 426}),
    ("HTTP/1.0", b"GET /v1/models HTTP/1.0\r\nHost: a\r\n" + KEY + b"\r\n", {426}),
    ("an unknown method", b"FROB /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405}),
    ("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", {400, 401, 403, 404, 405}),
    ("TRACE", b"TRACE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", {400, 405}),
    (
        "an upgrade to a WebSocket",
        get(b"/v1/models", b"connection: upgrade\r\nupgrade: websocket\r\n"),
        {400, 403},
    ),
    ("a chunk of no size", post(b"transfer-encoding: chunked\r\n", b"zz\r\n", length=b""), {400}),
    (
        "an endless chunk size",
        post(CHUNKED, b"f" * 40 + b"\r\n", length=b""),
        {400},
    ),
    ("an inner path", get(b"/metrics"), {404}),
    ("the debug interface", get(b"/debug/decisions/1"), {404}),
    (
        "the engine's other door",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\n" + KEY + JSON + LENGTH + b"\r\n" + BODY,
        {404},
    ),
    ("the engine's load", get(b"/load"), {404}),
    ("the engine's docs", get(b"/docs"), {404}),
    ("the admin interface", get(b"/config_dump"), {404}),
    ("out of the allowed folder", get(b"/v1/models/../../metrics"), {404}),
    ("out of it, escaped", get(b"/v1/models/%2e%2e/%2e%2e/metrics"), {404}),
    ("other letters", get(b"/V1/MODELS"), {404}),
    ("a path with a parameter", get(b"/v1/models;x=1"), {404}),
    ("a longer path", get(b"/v1/chat/completions/x"), {404}),
    ("the wrong method", get(b"/v1/chat/completions"), {405}),
    (
        "POST to the models",
        b"POST /v1/models HTTP/1.1\r\nHost: a\r\n" + KEY + b"content-length: 0\r\n\r\n",
        {405},
    ),
    ("a compressed body", post(b"content-encoding: gzip\r\n"), {415}),
    ("a form", post().replace(JSON, b"content-type: application/x-www-form-urlencoded\r\n"), {415}),
    ("no content type", post().replace(JSON, b""), {415}),
    (
        "JSON in another alphabet",
        post().replace(JSON, b"content-type: application/json; charset=utf-16\r\n"),
        {415},
    ),
    ("a body that is announced too large", post(length=b"content-length: 100000000\r\n"), {413}),
    ("two hosts", get(b"/v1/models", host=b"Host: a\r\nHost: b\r\n"), {400}),
    ("the same host twice", get(b"/v1/models", host=b"Host: a\r\nhost: a\r\n"), {400}),
    ("two hosts in one line", get(b"/v1/models", host=b"Host: a, b\r\n"), {400}),
    ("an empty host", get(b"/v1/models", host=b"Host: \r\n"), {400}),
    ("a user in the host", get(b"/v1/models", host=b"Host: a@b\r\n"), {400}),
    ("any host", get(b"/v1/models", host=b"Host: *\r\n"), {400}),
    ("a body where none is read", get(b"/v1/models", b"content-length: 5\r\n") + b"hello", {400}),
    ("a huge one", get(b"/v1/models", b"content-length: 20000000\r\n") + b"x" * 200_000, {400}),
    ("a chunked one", get(b"/v1/models/a", CHUNKED) + b"5\r\nhello\r\n0\r\n\r\n", {400}),
    ("another scheme", post().replace(b"POST ", b"POST https://evil", 1), {403}),
    ("a slash at the end", post().replace(b"completions HTTP", b"completions/ HTTP"), {404}),
    ("an escaped space", post().replace(b"completions HTTP", b"completions%20 HTTP"), {404}),
    ("a slash escaped twice", get(b"/v1%252fmodels"), {404}),
    ("an escaped NUL", get(b"/v1/models%00"), {400}),
    ("a fragment", get(b"/v1/models#x"), {400}),
    ("a path that is not ASCII", get("/v1/modéls".encode()), {400}),
    ("OPTIONS of everything", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", {404}),
    ("OPTIONS", b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n", {405}),
    ("a method in small letters", post().replace(b"POST", b"post", 1), {400}),
    ("no transfer coding, said so", post(b"transfer-encoding: identity\r\n"), {400}),
    ("a compressed transfer", post(b"transfer-encoding: gzip, chunked\r\n", length=b""), {501}),
    ("a transfer coding after odd space", post(b"transfer-encoding: \x0bchunked\r\n", length=b""), {400}),
    ("two headers of a transfer coding", post(CHUNKED + CHUNKED, length=b""), {400, 501}),
    ("chunks with bare newlines", post(CHUNKED, b"1\n{\n0\n\n", length=b""), {400}),
    ("a list of lengths", post(length=b"content-length: 57, 57\r\n"), {400}),
    ("a hexadecimal length", post(length=b"content-length: 0x39\r\n"), {400}),
    ("no length at all", post(length=b"", body=b""), {400}),
    ("a header without a colon", get(b"/v1/models", b"garbage\r\n"), {400}),
    ("a header without a name", get(b"/v1/models", b": a\r\n"), {400}),
    ("a tab before the colon", get(b"/v1/models", b"x-a\t: b\r\n"), {400}),
    ("an escape character in a header", get(b"/v1/models", b"x-a: b\x1bc\r\n"), {400}),
    ("a space before the method", b" " + get(b"/v1/models"), {400}),
    ("two content types", post(b"content-type: text/plain\r\n"), {415}),
    ("nearly JSON", post().replace(JSON, b"content-type: application/jsonx\r\n"), {415}),
]

HARMLESS: list[tuple[str, bytes, str]] = [
    ("dot segments", get(b"/public/../v1/models"), "GET /v1/models HTTP/1.1"),
    ("doubled slashes", get(b"//v1//models"), "GET /v1/models HTTP/1.1"),
    ("an absolute URL", get(b"http://evil/v1/models"), "GET /v1/models HTTP/1.1"),
    ("a query string", get(b"/v1/models?limit=1"), "GET /v1/models?limit=1 HTTP/1.1"),
    ("Codex's query", get(b"/v1/models?client_version=0.6"), "GET /v1/models HTTP/1.1"),
    ("unknown parameters", get(b"/v1/models?x=1&limit=2&%6cimit=3"), "GET /v1/models?limit=2 HTTP/1.1"),
    ("a parameter in a name", get(b"/v1/models/a%2Fb?beta=true"), "GET /v1/models/a%2Fb HTTP/1.1"),
    ("a query in a query", get(b"/v1/models?/v1/x?limit=1"), "GET /v1/models HTTP/1.1"),
    ("Azure's query", post().replace(b"completions HTTP", b"completions?api-version=1 HTTP"), CHAT_LINE),
    ("a model with an escaped slash", get(b"/v1/models/a%2Fb"), "GET /v1/models/a%2Fb HTTP/1.1"),
    ("a response", get(b"/v1/responses/resp_a-1"), "GET /v1/responses/resp_a-1 HTTP/1.1"),
    (
        "a stream of a response",
        get(b"/v1/responses/resp_a?stream=true&starting_after=2"),
        "GET /v1/responses/resp_a?stream=true&starting_after=2 HTTP/1.1",
    ),
    ("a list", get(b"/v1/responses/r?include%5B%5D=x"), "GET /v1/responses/r?include%5B%5D=x HTTP/1.1"),
    (
        "a cancellation",
        get(b"/v1/responses/resp_a/cancel?stream=true", b"content-length: 0\r\n").replace(b"GET", b"POST", 1),
        "POST /v1/responses/resp_a/cancel HTTP/1.1",
    ),
    ("a model with other escapes", get(b"/v1/models/a%40b%3Ac"), "GET /v1/models/a%40b%3Ac HTTP/1.1"),
    ("a header with an underscore", get(b"/v1/models", b"x_client_id: evil\r\n"), "GET /v1/models HTTP/1.1"),
    ("a dot segment after an escaped slash", get(b"/v1/models/a%2f../../b"), "GET /v1/models/b HTTP/1.1"),
    ("a model with slashes", get(b"/v1/models/a/b"), "GET /v1/models/a/b HTTP/1.1"),
    ("a folded header", get(b"/v1/models", b"x-a: b\r\n x-client-id: evil\r\n"), "GET /v1/models HTTP/1.1"),
    ("a port in the Host", get(b"/v1/models", host=b"Host: a:80\r\n"), "GET /v1/models HTTP/1.1"),
    ("an address as Host", get(b"/v1/models", host=b"Host: [::1]:80\r\n"), "GET /v1/models HTTP/1.1"),
    ("an empty body", get(b"/v1/models", b"content-length: 0\r\n"), "GET /v1/models HTTP/1.1"),
    ("a tab in a header", get(b"/v1/models", b"x-a: b\tc\r\n"), "GET /v1/models HTTP/1.1"),
    ("an upgrade to HTTP/2", get(b"/v1/models", H2C), "GET /v1/models HTTP/1.1"),
    ("an escaped letter", get(b"/v1/m%6fdels"), "GET /v1/models HTTP/1.1"),
    (
        "dots in the query",
        get(b"/v1/models?limit=/../../metrics"),
        "GET /v1/models?limit=/../../metrics HTTP/1.1",
    ),
    ("capital letters", post(b"Transfer-Encoding: Chunked\r\n", IN_CHUNKS, b""), CHAT_LINE),
    ("an extension of a chunk", post(CHUNKED, IN_CHUNKS.replace(b"\r\n", b";x=1\r\n", 1), b""), CHAT_LINE),
    ("a trailer", post(CHUNKED, IN_CHUNKS[:-2] + b"x-client-id: evil\r\n\r\n", b""), CHAT_LINE),
    ("an unknown expectation", post(b"expect: 200-ok\r\n"), CHAT_LINE),
]
