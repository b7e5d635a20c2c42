"""Runs kubectl and helm against the cluster of KUBECONFIG. Must not depend on the platform."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]


class CommandFailed(AssertionError):
    """A command exited with an error; the message holds the command and its output."""


def run(*words: str | Path, text: str | None = None, timeout: float = 120.0, check: bool = True) -> str:
    """Run a command and return its standard output.

    Raises:
        CommandFailed: it exited with an error and ``check`` is set.
    """
    done = subprocess.run(
        [str(word) for word in words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    if check and done.returncode:
        raise CommandFailed(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout if not done.returncode else done.stdout + done.stderr


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60.0, every: float = 0.5) -> Any:
    """Call ``condition`` until it returns a true value, and return that.

    Raises:
        AssertionError: it stayed false; the message names ``what`` and the last value.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s (last: {value!r})"
        time.sleep(every)


@dataclass(frozen=True)
class Kubectl:
    """Runs kubectl, whose path is given. Methods take kubectl's arguments."""

    program: Path

    def __call__(self, *words: str, **options: Any) -> str:
        return run(self.program, *words, **options)

    def get(self, *words: str) -> list[Document]:
        """Return the objects that ``kubectl get`` lists."""
        found: list[Document] = json.loads(self("get", *words, "-o", "json"))["items"]
        return found

    def one(self, kind: str, name: str, namespace: str) -> Document:
        """Return one object."""
        found: Document = json.loads(self("get", kind, name, "-n", namespace, "-o", "json"))
        return found

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or change objects."""
        self("apply", "-f", "-", text=yaml.safe_dump_all(documents))

    def pods(self, namespace: str, *selectors: str) -> list[Document]:
        """Return the pods that are not terminating, oldest first."""
        words = ["-l", ",".join(selectors)] if selectors else []
        found = [
            pod
            for pod in self.get("pods", "-n", namespace, *words)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] in ("Pending", "Running")
        ]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def rolled_out(self, namespace: str, *deployments: str, seconds: float = 180.0) -> None:
        """Wait until all replicas of the deployments are updated and available."""
        for name in deployments:
            self(
                "rollout", "status", f"deployment/{name}", "-n", namespace, f"--timeout={seconds:.0f}s",
                timeout=seconds + 10,
            )  # fmt: skip

    @contextmanager
    def watched_replicas(self, namespace: str, deployment: str) -> Iterator[list[int]]:
        """Yield a list to which every change of a deployment's desired replicas is appended."""
        seen: list[int] = []
        columns = "custom-columns=:.spec.replicas"
        command = [
            str(self.program),
            "get",
            "deployment",
            deployment,
            "-n",
            namespace,
            "--watch",
            "-o",
            columns,
        ]
        with subprocess.Popen(
            [*command, "--no-headers"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            reader = threading.Thread(
                target=lambda lines: seen.extend(int(line) for line in lines if line.strip().isdigit()),
                args=(process.stdout,),
            )
            reader.start()
            try:
                yield seen
            finally:
                process.terminate()
                reader.join(10)

    @contextmanager
    def forwarded(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """Yield the URL of a port of a pod or Service, forwarded to this machine."""
        command = [str(self.program), "port-forward", "-n", namespace, target, f":{port}"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                found = re.search(r"127\.0\.0\.1:(\d+)", line)
                assert found, f"kubectl port-forward {target}: {line}"
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()


def ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod's condition Ready is true."""
    conditions = pod["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def names(documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of objects."""
    return [str(one["metadata"]["name"]) for one in documents]
