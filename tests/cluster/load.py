"""Load from a Job in the cluster: the load generator reads every response to its end and classifies it."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cluster.kubectl import Kubectl, wait_for

NAMESPACE = "llm-cluster-suite"
STOP_FILE = "/tmp/stop"
LONGEST_SECONDS = 600
AFTER_SECONDS = 3.0
"""Seconds of load after the fault."""
RESTRICTED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass
class Seen:
    """What the clients of one run observed: one record per request."""

    planned: int
    records: list[dict[str, Any]] = field(repr=False)

    @property
    def good(self) -> list[dict[str, Any]]:
        return [one for one in self.records if one["outcome"] == "good"]

    @property
    def lost(self) -> list[dict[str, Any]]:
        return [one for one in self.records if one["outcome"] != "good"]

    @property
    def slowest(self) -> float:
        """Return the duration of the longest request in seconds, successful or not."""
        return max((float(one["total_seconds"]) for one in self.records), default=0.0)

    def said(self) -> str:
        """Return the outcomes in one line, with status and detail of each lost request."""
        lost = Counter(
            f"{'streamed' if one['streamed'] else 'whole'} {one['outcome']} {one['status']} {one['detail'][:60]}"
            for one in self.lost
        )
        found = "; ".join(f"{count}x {text}" for text, count in lost.most_common())
        return f"{len(self.records)} requests, slowest {self.slowest:.1f} s, lost {len(self.lost)}: {found or 'none'}"


class Load:
    """A running load; made by :func:`load`."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self._kubectl = kubectl
        self._name = name

    def finish(self) -> Seen:
        """Stop sending, wait until every request has ended, and return the records."""
        time.sleep(AFTER_SECONDS)
        assert not self._ended(), "the load ended before the fault: was its pod on the lost node?"
        self._kubectl("exec", f"job/{self._name}", "-n", NAMESPACE, "--", "touch", STOP_FILE)
        wait_for("the load's Job ends", self._ended, 240, every=1.0)
        lines = self._kubectl("logs", f"job/{self._name}", "-n", NAMESPACE, "--tail=-1").splitlines()
        records = [json.loads(line) for line in lines if line.startswith('{"sent_at"')]
        planned = [line for line in lines if line.startswith("planned ")]
        assert planned, "\n".join(lines[-20:])
        seen = Seen(int(planned[0].split()[1]), records)
        print(f"\n{self._name}: {seen.said()}")
        assert len(records) == seen.planned, f"{seen.planned} sent, {len(records)} recorded"
        return seen

    def _ended(self) -> bool:
        status = self._kubectl.one("job", self._name, NAMESPACE)["status"]
        return any(
            one["type"] in ("Complete", "Failed") and one["status"] == "True"
            for one in status.get("conditions", [])
        )


@contextmanager
def load(
    kubectl: Kubectl,
    image: str,
    name: str,
    rate: float = 8.0,
    node: str | None = None,
    seed: int = 1,
) -> Iterator[Load]:
    """Send ``rate`` requests per second from ``node`` (or any node) until :meth:`Load.finish`; the block
    starts with the first response.
    """
    kubectl("delete", "job", name, "-n", NAMESPACE, "--ignore-not-found", "--wait")
    # By address: a client whose DNS server runs on the lost node would fail because of DNS.
    address = kubectl.one("service", "edge-gateway", "llm")["spec"]["clusterIP"]
    kubectl.apply(_job(image, name, rate, node, seed, f"[{address}]" if ":" in address else address))

    def sending() -> bool:
        log = kubectl("logs", f"job/{name}", "-n", NAMESPACE, check=False)
        return " sent, " in log

    wait_for("the load is being sent", sending, 90)
    try:
        yield Load(kubectl, name)
    finally:
        kubectl("delete", "job", name, "-n", NAMESPACE, "--ignore-not-found", "--wait=false", check=False)


def _job(image: str, name: str, rate: float, node: str | None, seed: int, edge: str) -> dict[str, Any]:
    command = (
        f"locust -f /srv/locustfile.py --headless --only-summary --users 1 --workload mixed --rate {rate} "
        f"--duration {LONGEST_SECONDS} --stop-file {STOP_FILE} --seed {seed} "
        f"--host http://{edge}/v1 --records /tmp/requests.jsonl "
        "--exit-code-on-error 0; cat /tmp/requests.jsonl; "
        'python -c \'import json; shares = json.load(open("/tmp/requests.generator.json"))["shares"]; '
        'print("planned", sum(one["planned"] for one in shares))\''
    )
    container = {
        "name": "load",
        "image": image,
        "command": ["sh", "-c", command],
        "env": [
            {"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "load-key", "key": "key"}}}
        ],
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
    if node:
        pod["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }
