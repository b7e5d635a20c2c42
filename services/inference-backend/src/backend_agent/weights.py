"""Downloads a model's files into a node's cache, complete and verified or not at all. Must not know engines.

A model appears in the cache by one rename, so that a pod never reads an incomplete one. A lock per model lets
several pods of a node start together and download once. The next run continues an interrupted download.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from huggingface_hub.errors import RepositoryNotFoundError

CHECKSUMS = "SHA256SUMS"
COMPLETE = ".complete"
BLOCK_BYTES = 4 << 20
SAY_SECONDS = 5.0
LINE = re.compile(r"^([0-9a-f]{64})[ \t]+\*?(\S.*)$")
Say = Callable[[str], None]


class CannotLoad(Exception):
    """The weights cannot be loaded or are damaged. The message names source, file and remedy."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a source: its path below the model's folder and its size in bytes."""

    path: str
    size: int


class Source(Protocol):
    """A source of weights."""

    def files(self) -> list[RemoteFile]:
        """Return the files of the source."""

    def read(self, path: str, start: int) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a file at byte ``start``."""


class FolderSource:
    """A folder, for example a mounted volume."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            raise CannotLoad(f"{folder}: no such folder")

    def files(self) -> list[RemoteFile]:
        # Hidden files belong to the tool that created the folder.
        found = sorted(
            path for path in self._folder.rglob("*") if path.is_file() and not path.name.startswith(".")
        )
        return [RemoteFile(str(path.relative_to(self._folder)), path.stat().st_size) for path in found]

    @contextlib.contextmanager
    def read(self, path: str, start: int) -> Iterator[IO[bytes]]:
        with (self._folder / path).open("rb") as file:
            file.seek(start)
            yield file


class S3Source:
    """Objects below a prefix. boto3 finds the credentials, from the environment or the pod's role."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        self._failures = (BotoCoreError, ClientError)
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        with self._translated():
            self._s3: Any = boto3.client("s3", config=Config(retries={"max_attempts": 5, "mode": "standard"}))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise CannotLoad(f"s3://{self._bucket}/{self._prefix}: {error}") from None

    def files(self) -> list[RemoteFile]:
        with self._translated():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            return [
                RemoteFile(item["Key"].removeprefix(self._prefix), item["Size"])
                for page in pages
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            ]

    @contextlib.contextmanager
    def read(self, path: str, start: int) -> Iterator[IO[bytes]]:
        with self._translated():
            answer = self._s3.get_object(
                Bucket=self._bucket, Key=self._prefix + path, Range=f"bytes={start}-"
            )
            with contextlib.closing(answer["Body"]) as body:
                yield body


def load(source: str, cache: Path, name: str, *, say: Say) -> Path:
    """Load the files of ``source`` into ``cache/name`` and return that folder; return at once if they are
    there.

    ``source`` is ``s3://bucket/prefix``, ``hf://owner/name[@revision]`` or a folder. A ``SHA256SUMS`` among the
    files must list every other file, and each is verified before the model appears. Without it, only sizes are
    checked.

    Raises:
        CannotLoad: the source is unknown, cannot be read, lacks files, or a checksum is wrong.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise CannotLoad(f'--name: "{name}" is not a plain name (letters, digits, . _ -)')
    final = cache / name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{name}.lock", say):
            if (final / COMPLETE).exists() and (final / COMPLETE).read_text() == source:
                say(f"{final} is there already")
                return final
            partial = cache / f".{name}.partial"
            partial.mkdir(exist_ok=True)
            if source.startswith("hf://"):
                _from_hub(source, partial)
            else:
                _fetch(_source_of(source), source, partial, say)
            (partial / COMPLETE).write_text(source)
            if final.exists():
                os.rename(final, cache / f".{name}.old")
            os.rename(partial, final)
            shutil.rmtree(cache / f".{name}.old", ignore_errors=True)
    except OSError as error:
        raise CannotLoad(f"{error.filename or cache}: {error.strerror}") from None
    return final


def _source_of(source: str) -> Source:
    parts = urlsplit(source)
    if parts.scheme == "s3" and parts.netloc:
        return S3Source(parts.netloc, parts.path)
    if parts.scheme in ("", "file") and parts.path:
        return FolderSource(Path(parts.path))
    raise CannotLoad(f'--source: "{source}" is not one of s3://bucket/prefix, hf://owner/name, a folder')


def _fetch(origin: Source, source: str, partial: Path, say: Say) -> None:
    files = origin.files()
    if not files:
        raise CannotLoad(f"{source}: there are no files; check the prefix")
    for file in files:
        if ".." in Path(file.path).parts or Path(file.path).is_absolute():
            raise CannotLoad(f'{source}: "{file.path}" would leave the cache')
    free = shutil.disk_usage(partial).free + _held(partial)
    wanted = sum(file.size for file in files)
    if wanted > free:
        raise CannotLoad(
            f"{partial}: {wanted} bytes are needed and {free} are free; enlarge the cache volume"
        )
    progress = _Progress(wanted, say)
    for file in files:
        _fetch_file(origin, source, file, partial / file.path, progress)
    _verify(source, partial, files, say)


def _held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _fetch_file(origin: Source, source: str, file: RemoteFile, target: Path, progress: "_Progress") -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    have = target.stat().st_size if target.exists() else 0
    if have > file.size:
        target.unlink()
        have = 0
    progress.add(have)
    if have < file.size:
        with origin.read(file.path, have) as body, target.open("ab") as out:
            while block := body.read(BLOCK_BYTES):
                out.write(block)
                progress.add(len(block))
    target.touch()
    if (size := target.stat().st_size) != file.size:
        raise CannotLoad(f"{source}: {file.path} has {size} bytes instead of {file.size}; run it again")


def _verify(source: str, partial: Path, files: list[RemoteFile], say: Say) -> None:
    listed = partial / CHECKSUMS
    if not listed.exists():
        say(f"{source} has no {CHECKSUMS}: only sizes were checked")
        return
    sums = read_checksums(listed, f"{source}/{CHECKSUMS}")
    names = {file.path for file in files} - {CHECKSUMS}
    if missing := sorted(sums.keys() - names):
        raise CannotLoad(
            f"{source}: {', '.join(missing)} is listed in {CHECKSUMS} and is missing; upload it again"
        )
    if unlisted := sorted(names - sums.keys()):
        raise CannotLoad(
            f"{source}: {', '.join(unlisted)} is not listed in {CHECKSUMS}; list it or remove it"
        )
    for name, expected in sums.items():
        found = file_digest(partial / name)
        if found != expected:
            (partial / name).unlink()  # the next run downloads it again
            raise CannotLoad(
                f"{source}: {name} has the checksum {found[:12]}… instead of {expected[:12]}…; upload it again"
            )


def read_checksums(listed: Path, said: str | None = None) -> dict[str, str]:
    """Return the SHA-256 of each file in a ``SHA256SUMS``; errors call the file ``said``.

    Raises:
        CannotLoad: a line does not have the format of sha256sum.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(listed.read_text(errors="replace").splitlines(), start=1):
        if line.strip():
            match = LINE.match(line.strip())
            if match is None:
                raise CannotLoad(f"{said or listed}:{number}: not a line of sha256sum")
            sums[match[2].removeprefix("./")] = match[1]
    return sums


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(source: str, partial: Path) -> None:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = source.removeprefix("hf://").partition("@")
    try:
        snapshot_download(repository, revision=revision or None, local_dir=partial)
    except RepositoryNotFoundError as error:  # A gated model is one, too.
        raise CannotLoad(f"{source}: {_why_not(error, f'{ENDPOINT}/{repository}')}") from None
    except RevisionNotFoundError:
        remedy = f"name a commit that {ENDPOINT}/{repository}/commits/main shows"
        raise CannotLoad(f'{source}: the model has no revision "{revision}"; {remedy}') from None
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        raise CannotLoad(f"{source}: {str(error).splitlines()[0]}") from None
    shutil.rmtree(partial / ".cache", ignore_errors=True)


def _why_not(error: "RepositoryNotFoundError", page: str) -> str:
    """Return why the hub refuses the model with the licence's ``page``, and the remedy."""
    from huggingface_hub.errors import GatedRepoError

    status = error.response.status_code
    secret = "the Secret that weights.tokenSecret names (key token)"
    if isinstance(error, GatedRepoError) and os.environ.get("HF_TOKEN"):
        accept = f"accept its licence at {page} with the account of the token in {secret}"
        return f"the model is gated and this token may not read it ({status}); {accept}"
    if isinstance(error, GatedRepoError):
        accept = f"accept its licence at {page} and put a token of that account into {secret}"
        return f"the model is gated and there is no token ({status}); {accept}"
    remedy = f"check the name at {page}; if it is private, put a token that may read it into {secret}"
    return f"the hub has no such model for this token ({status}); {remedy}"


class _Progress:
    def __init__(self, total: int, say: Say) -> None:
        self._total = total
        self._say = say
        self._done = 0
        self._said = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= SAY_SECONDS:
            self._said = now
            self._say(f"{self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB")


@contextlib.contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another pod of this node downloads it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
