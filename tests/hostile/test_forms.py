"""Attack: forms of the largest size that cost more to read than their bytes suggest."""

import time

import httpx
import pytest

from harness.attacks.bodies import BODY_BYTES
from harness.judges.form_corpus import FORM_DATA
from harness.stacks.attacked import ATTACK_SECONDS, MIB, Attacked, unharmed_neighbour

pytestmark = pytest.mark.service

PATH = "/v1/audio/transcriptions"
BOUNDARY = b"x" * 70
LINE = b"--" + BOUNDARY
MODEL_PART = LINE + b"\r\n" + FORM_DATA + b'name="model"\r\n\r\nm\r\n' + LINE + b"--"


def form(data: bytes) -> bytes:
    """Return a form with a file that consists of repeated ``data``."""
    head = LINE + b"\r\n" + FORM_DATA + b'name="file"; filename="a"\r\n\r\n'
    times = (BODY_BYTES - len(head) - len(MODEL_PART) - 64) // len(data)
    return head + data * times + b"\r\n" + MODEL_PART


def texts(count: int) -> bytes:
    """Return a form with a file and ``count`` texts of the largest size."""
    file = LINE + b"\r\n" + FORM_DATA + b'name="file"; filename="a"\r\n\r\n\r\n'
    parts = (
        LINE + b"\r\n" + FORM_DATA + b'name="%d"\r\n\r\n' % number + b"a" * 65_536 + b"\r\n"
        for number in range(count)
    )
    return file + b"".join(parts) + MODEL_PART


FORMS = {
    "the boundary's character": form(b"x"),
    "line ends": form(b"\r"),
    "boundaries without their end": form(b"\r\n" + LINE[:-1] + b"!"),
    "62 long texts": texts(62),
    "63 long texts": texts(63),
    "a head without an end": LINE + b"\r\nx: " + b"a" * (BODY_BYTES - 128),
}
REFUSED = ("63 long texts", "a head without an end")


def test_large_forms_harm_no_second_client(attacked: Attacked) -> None:
    """Every kind in turn, two forms a second."""
    before = (attacked.edge_bytes(), attacked.router_bytes())
    codes: dict[str, str] = {}
    headers = {
        **attacked.headers("fast"),
        "content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}",
    }
    sent = 0
    with unharmed_neighbour(attacked, "forms"), httpx.Client(timeout=60) as client:
        began = time.monotonic()
        while time.monotonic() - began < ATTACK_SECONDS or sent < 2 * len(FORMS):
            kind = list(FORMS)[sent % len(FORMS)]
            answer = client.post(attacked.edge.url + PATH, content=FORMS[kind], headers=headers)
            assert answer.status_code < 500, (kind, answer.text)
            codes[kind] = "" if answer.status_code == 200 else str(answer.json()["error"]["code"])
            sent += 1
            time.sleep(0.4)
    grown = attacked.edge_bytes() - before[0], attacked.router_bytes() - before[1]
    print(f"{sent} forms: {codes}, edge +{grown[0] // MIB} MiB, router +{grown[1] // MIB} MiB")
    assert [kind for kind in FORMS if codes[kind] == "invalid_form"] == list(REFUSED), (
        "the others were read whole"
    )
    assert max(grown) < 160 * MIB
