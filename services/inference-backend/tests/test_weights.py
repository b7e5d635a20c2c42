"""Weights arrive whole and checked, or not at all; against an S3-compatible server and folders."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from backend_agent.main import main
from backend_agent.weights import CannotLoad, load

pytestmark = pytest.mark.programs
BUCKET = "models"
FILES = {
    "config.json": b"{}",
    "shards/one.safetensors": b"1" * 9_000_000,
    "shards/two.safetensors": b"2" * 70_000,
}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield client
    server.stop()


def sums(files: dict[str, bytes]) -> bytes:
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()


def put(s3: Any, prefix: str, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=data)
    return f"s3://{BUCKET}/{prefix}"


def content(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in found.items() if name not in (".complete", "SHA256SUMS")
    }


def test_a_model_comes_from_s3_checked_and_is_not_fetched_twice(s3: Any, tmp_path: Path) -> None:
    source = put(s3, "good", {**FILES, "SHA256SUMS": sums(FILES)})
    said: list[str] = []
    folder = load(source, tmp_path, "m", say=said.append)
    assert content(folder) == FILES
    s3.delete_object(Bucket=BUCKET, Key="good/config.json")
    assert load(source, tmp_path, "m", say=said.append) == folder
    assert said == [f"{folder} is there already"]


def test_an_interrupted_fetch_goes_on_where_it_was(s3: Any, tmp_path: Path) -> None:
    source = put(s3, "resumed", {**FILES, "SHA256SUMS": sums(FILES)})
    begun = tmp_path / ".m.partial" / "shards" / "one.safetensors"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(FILES["shards/one.safetensors"][:5_000_000])
    # Were it fetched from its beginning, the first half would be what the bucket holds now.
    changed = b"x" * 5_000_000 + FILES["shards/one.safetensors"][5_000_000:]
    s3.put_object(Bucket=BUCKET, Key="resumed/shards/one.safetensors", Body=changed)
    assert content(load(source, tmp_path, "m", say=print)) == FILES


def test_a_wrong_checksum_is_named_and_the_next_run_repairs_it(
    s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = put(s3, "wrong", {**FILES, "SHA256SUMS": sums(FILES), "config.json": b"[]"})
    words = ["load-weights", "--source", source, "--to", str(tmp_path), "--name", "m"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "config.json has the checksum" in said
    assert "upload it again" in said
    assert not (tmp_path / "m").exists(), "a pod never sees it"
    put(s3, "wrong", FILES)
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "m")


@pytest.mark.parametrize(
    ("listed", "there", "said"),
    [
        (
            FILES,
            {"config.json": b"{}"},
            "shards/one.safetensors, shards/two.safetensors is listed in SHA256SUMS",
        ),
        ({"config.json": b"{}"}, FILES, "shards/one.safetensors, shards/two.safetensors is not listed"),
    ],
)
def test_a_missing_and_an_unlisted_file_are_named(
    listed: dict[str, bytes], there: dict[str, bytes], said: str, s3: Any, tmp_path: Path
) -> None:
    source = put(s3, f"list-{len(listed)}", {**there, "SHA256SUMS": sums(listed)})
    with pytest.raises(CannotLoad, match=said):
        load(source, tmp_path, "m", say=print)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("s3://models/nothing-here", "there are no files; check the prefix"),
        ("s3://no-such-bucket/x", "NoSuchBucket"),
        ("/no/such/folder", "/no/such/folder: no such folder"),
        ("ftp://host/x", '"ftp://host/x" is not one of s3://bucket/prefix'),
    ],
)
def test_a_source_that_cannot_be_read_is_one_sentence(
    source: str, said: str, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load-weights", "--source", source, "--to", str(tmp_path), "--name", "m"]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


class Hub(BaseHTTPRequestHandler):
    """The hub's refusal of every request; its status and error code are in the model's name."""

    def do_GET(self) -> None:
        status, code = re.search(r"/(\d+)-(\w+)", self.path).groups()
        self.send_response(int(status))
        self.send_header("x-error-code", code)
        self.send_header("content-length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None: ...


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("model", "token", "said"),
    [
        ("401-GatedRepo", "", "is gated and there is no token (401); accept its licence at HUB/meta/401-GatedRepo"),
        ("403-GatedRepo", "x", "is gated and this token may not read it (403); accept its licence at HUB/meta/403-Gated"),
        ("404-RepoNotFound", "x", "no such model for this token (404); check the name at HUB/meta/404-RepoNotFound"),
        ("401-RepoNotFound", "", "no such model for this token (401); check the name at HUB/meta/401-RepoNotFound"),
        ("404-RevisionNotFound", "x", 'has no revision "abc"; name a commit that HUB/meta/404-RevisionNotFound/commits'),
        ("500-Oops", "x", "500"),
    ],
)  # fmt: skip
def test_a_refusal_of_the_hub_names_the_licence_and_the_secret(
    hub: str, model: str, token: str, said: str, tmp_path: Path
) -> None:
    """In a process of its own, because the hub's package reads its address once."""
    source = f"hf://meta/{model}@abc"
    command = [sys.executable, "-m", "backend_agent.main", "load-weights", "--source", source, "--name", "m"]
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_TOKEN": token} if token else {}
    done = subprocess.run(
        [*command, "--to", str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert said.replace("HUB", hub) in line, done.stderr
    assert "Traceback" not in done.stderr
    if model[-5:] in ("dRepo", "Found") and "Revision" not in model:
        assert "the Secret that weights.tokenSecret names (key token)" in line


def test_a_name_cannot_leave_the_cache(tmp_path: Path) -> None:
    with pytest.raises(CannotLoad, match="plain name"):
        load("/tmp", tmp_path, "../m", say=print)


def test_pods_of_one_node_fetch_once(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    (origin / "shards").mkdir(parents=True)
    for name, data in FILES.items():
        (origin / name).write_bytes(data)
    (origin / "SHA256SUMS").write_bytes(sums(FILES))
    words = ["load-weights", "--source", str(origin), "--to", str(tmp_path / "cache"), "--name", "m"]
    pods = [
        subprocess.Popen(
            [sys.executable, "-m", "backend_agent.main", *words], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = [pod.communicate(timeout=60)[0] for pod in pods]
    assert [pod.returncode for pod in pods] == [0] * 4
    assert content(tmp_path / "cache" / "m") == FILES
    assert sum("is there already" in lines for lines in said) == 3
