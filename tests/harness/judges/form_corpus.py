"""Forms that the edge and the router must refuse, because two readers could read them differently."""

TYPE = "multipart/form-data; boundary=x"
PLAIN = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
MAX_PARTS = 64


def part(head: bytes, text: bytes = b"m") -> bytes:
    """Return a form of one part."""
    return b"--x\r\n" + head + b"\r\n\r\n" + text + b"\r\n--x--"


def parts(count: int) -> bytes:
    """Return a form of ``count`` texts."""
    return (
        b"".join(part(b'content-disposition: form-data; name="%d"' % n)[:-5] for n in range(count)) + b"--x--"
    )


FORM_DATA = b"content-disposition: form-data; "
WRONG_TYPES = [
    "application/json",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=a b",
    "multipart/form-data; boundary=" + "x" * 71,
    "multipart/form-data; boundary=x; charset=utf-16",
    "multipart/form-data; charset=utf-8; boundary=x",
    "multipart/mixed; boundary=x",
]
REFUSED: list[tuple[str, bytes, str]] = [
    ("text before the form", b"text before\r\n" + PLAIN, "begin"),
    ("lines that end with LF", PLAIN.replace(b"\r\n", b"\n"), "begin"),
    ("a form without an end", PLAIN[:-6], "end"),
    ("text after the form", PLAIN + b"more", "follow"),
    ("a longer boundary", PLAIN.replace(b"--x--", b"--xy--"), "alone"),
    ("spaces after a boundary", PLAIN.replace(b"--x\r\n", b"--x \r\n"), "begin"),
    ("a field twice", PLAIN[:-7] + PLAIN, "twice"),
    ("two names in one part", part(FORM_DATA + b'name="a"; name="model"'), "name"),
    ("an encoded name", part(FORM_DATA + b"name*=utf-8''model; name=\"a\""), "name"),
    ("a name after an escaped quote", part(FORM_DATA + b'filename="a\\"; name="model'), "name"),
    ("a name without quotes", part(FORM_DATA + b"name=model"), "name"),
    ("an empty name", part(FORM_DATA + b'name=""'), "name"),
    ("a quote in a name", part(FORM_DATA + b'name="mo\\"del"'), "name"),
    ("a parameter nobody knows", part(FORM_DATA + b'name="model"; x="y"'), "name"),
    ("an attachment", part(b'content-disposition: attachment; name="model"'), "name"),
    ("a folded line", part(b'content-disposition: form-data;\r\n name="model"'), "name"),
    ("a part without a name", part(b"content-type: text/plain"), "name"),
    ("a part without a head", b"--x\r\n\r\nm\r\n--x--", "head"),
    ("two dispositions", part(FORM_DATA + b'name="a"\r\n' + FORM_DATA + b'name="b"'), "name"),
    ("a newline in a head", part(FORM_DATA + b'name="model"\nx: y'), "name"),
    ("a long text", part(FORM_DATA + b'name="model"', b"a" * 70_000), "at most 65536 bytes"),
    ("a long head", part(FORM_DATA + b'name="a"\r\nx: ' + b"a" * 3000), "2048"),
    ("many parts", parts(MAX_PARTS + 1), "64 parts"),
]
