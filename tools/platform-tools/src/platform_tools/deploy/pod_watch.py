"""Watches the pods of a release while Helm installs it, and after its removal until they have ended."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from platform_tools.deploy.pod_troubles import Trouble, creation_trouble, trouble_of
from platform_tools.deploy.prerequisites import Cluster
from platform_tools.deploy.releases import BadRequest, Release

LOG_LINES = 8
LINE_CHARACTERS = 300
GONE_POLL_SECONDS = 1.0


@dataclass
class PodWatch:
    """Reads the pods every ``poll_seconds`` and passes each new finding to ``say`` once."""

    cluster: Cluster
    say: Callable[[str], None]
    poll_seconds: float = 10.0
    _said: set[str] = field(default_factory=set)

    def install(self, command: Sequence[str], release: Release, timeout_seconds: float) -> None:
        """Run Helm and report the troubles of the release's pods as they appear.

        Raises:
            BadRequest: Helm failed; the message ends with every pod that is not ready, why, and what to do.
        """
        try:
            helm = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise BadRequest(f"{command[0]} is not installed") from None
        with helm:
            deadline = time.monotonic() + timeout_seconds
            while True:
                try:
                    out, errors = helm.communicate(timeout=self.poll_seconds)
                    break
                except subprocess.TimeoutExpired:
                    for trouble in self._troubles(release):
                        self._say_once(*self._lines(release, trouble))
                    if time.monotonic() > deadline:
                        helm.kill()
        if helm.returncode:
            lines = [f"helm {' '.join(command[1:4])}: {errors.strip() or out.strip()}"]
            for trouble in self._troubles(release):
                lines += [f"  {line}" for line in self._lines(release, trouble)]
            raise BadRequest("\n".join(lines))

    def wait_until_gone(self, release: Release, timeout_seconds: float, *, only_ending: bool = False) -> None:
        """Wait until the API server has no pod of a removed release; report how long that may take.

        With ``only_ending`` a pod that is not being deleted does not count.

        Raises:
            BadRequest: pods still run after the timeout.
        """
        deadline = time.monotonic() + timeout_seconds
        while pods := [pod for pod in self._pods(release) if _awaited(pod, only_ending)]:
            names = ", ".join(pod["metadata"]["name"] for pod in pods)
            longest = max(pod.get("spec", {}).get("terminationGracePeriodSeconds", 30) for pod in pods)
            if time.monotonic() > deadline:
                raise BadRequest(
                    f"{release.name}: pods still run after {timeout_seconds:.0f} s: {names}; wait and run this "
                    f"again, or see kubectl -n {release.namespace} describe pod {pods[0]['metadata']['name']}"
                )
            self._say_once(f"waiting up to {longest} s for pods that finish their requests: {names}")
            time.sleep(min(self.poll_seconds, GONE_POLL_SECONDS, max(0.1, deadline - time.monotonic())))

    def _say_once(self, line: str, *more: str) -> None:
        if line not in self._said:
            self._said.add(line)
            for one in (line, *more):
                self.say(f"    {one}")

    def _objects(self, kinds: str, release: Release) -> list[dict[str, Any]]:
        selector = f"app.kubernetes.io/instance={release.name}"
        return self.cluster.get(kinds, "-n", release.namespace, "-l", selector)

    def _pods(self, release: Release) -> list[dict[str, Any]]:
        return self._objects("pods", release)

    def _troubles(self, release: Release) -> list[Trouble]:
        """Return why the release is not ready; [] if the API server does not answer."""
        try:
            pods = self._pods(release)
            owners = self._objects("replicasets,statefulsets,daemonsets", release)
            events = sorted(self.cluster.get("events", "-n", release.namespace), key=_time)
        except BadRequest:
            return []
        by_object: dict[str, list[dict[str, Any]]] = {}
        for event in events:
            by_object.setdefault(event.get("involvedObject", {}).get("name", ""), []).append(event)
        found = [trouble_of(pod, by_object.get(pod["metadata"]["name"], [])) for pod in pods]
        found += [creation_trouble(one, by_object.get(one["metadata"]["name"], [])) for one in owners]
        return [trouble for trouble in found if trouble]

    def _lines(self, release: Release, trouble: Trouble) -> list[str]:
        """Return a trouble as lines, with the last lines of the log of a container that crashed."""
        if trouble.crashed is None:
            return [str(trouble)]
        log = self.cluster.log(release.namespace, trouble.pod, trouble.crashed, LOG_LINES)
        return [str(trouble), *(f"  | {line[:LINE_CHARACTERS]}" for line in log)]


def _awaited(pod: dict[str, Any], only_ending: bool) -> bool:
    """Return whether a removal waits for a pod. The kubelet removes a pod some time after its processes have ended."""
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return "deletionTimestamp" in pod["metadata"] or not (ended or only_ending)


def _time(event: dict[str, Any]) -> str:
    return str(
        event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp", "")
    )
