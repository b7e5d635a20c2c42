"""The environment `sim` on the cluster: its Secrets, its releases by scripts/deploy, and requests through its edge."""

import base64
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster import load
from cluster.kubectl import Kubectl, names, run, wait_for

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
ENVIRONMENT = "sim"
MODEL = "simulated-chat"
NAMESPACES = ("llm", "observability")
ENGINE = "app.kubernetes.io/component=inference-engine"
TIERS = {
    "edge-gateway": "edge",
    "router-service": "router",
    "rate-limit-service": "rate-limits",
    "simulated": "simulated",
}
"""Deployment → release, for every service on the request path."""


def namespaces() -> dict[str, dict[str, str]]:
    """Return the namespaces that scripts/deploy creates, each with its labels."""
    found = yaml.safe_load((ROOT / "helm" / "releases.yaml").read_text())["namespaces"]
    return {name: dict(facts["labels"]) for name, facts in found.items()}


def app(name: str) -> str:
    """Return the label selector of a chart's pods."""
    return f"app.kubernetes.io/name={name}"


class Platform:
    """One installation.

    ``registry`` prefixes our images' names; it is empty for images that the nodes already have.
    """

    def __init__(self, kubectl: Kubectl, helm: Path, folder: Path, registry: str) -> None:
        self.kubectl = kubectl
        self.helm = helm
        self.folder = folder
        self.registry = registry
        self.printed = ""
        self.keys = {"suite": f"sk-{secrets.token_hex(24)}"}
        self.load_image = f"{registry or 'llm-platform'}/load-generator:{self._version()}"

    def _version(self) -> str:
        chart = yaml.safe_load((ROOT / "helm" / "edge-gateway" / "Chart.yaml").read_text())
        return str(chart["appVersion"])

    # -- installing ------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Create the namespaces, labelled as scripts/deploy labels them, and the Secrets."""
        wait_for("the namespaces of an earlier run are gone", self._no_namespace_is_ending, 120, every=1.0)
        for name, labels in namespaces().items():
            self.namespace_with(name, labels)
        self.namespace_with(load.NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"})
        there = self.kubectl(
            "get", "secret", "load-key", "-n", load.NAMESPACE, "-o", "jsonpath={.data.key}", check=False
        )
        if there and "NotFound" not in there:  # an installation that an earlier run kept
            self.keys["suite"] = base64.b64decode(there).decode()
            return
        self.secret("llm", "redis", {"password": secrets.token_hex(16)})
        grafana = {
            "admin-user": "admin",
            "admin-password": secrets.token_hex(8),
        }
        self.secret("observability", "grafana", grafana)
        self.secret(load.NAMESPACE, "load-key", {"key": self.keys["suite"]})
        self.write_keys()

    def _no_namespace_is_ending(self) -> bool:
        phases = {one["metadata"]["name"]: one["status"]["phase"] for one in self.kubectl.get("namespaces")}
        return all(phases.get(name) != "Terminating" for name in (*namespaces(), load.NAMESPACE))

    def namespace_with(self, name: str, labels: dict[str, str]) -> None:
        """Create a namespace, or label it."""
        self.kubectl.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        )

    def secret(self, namespace: str, name: str, data: dict[str, str]) -> None:
        """Create or replace a Secret."""
        metadata = {"name": name, "namespace": namespace}
        self.kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})

    def write_keys(self) -> None:
        """Create the edges' Secret from ``keys``, as docs/deploying.md does."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            keys = folder / "keys.yaml"
            keys.write_text(yaml.safe_dump({"clients": {client: [key] for client, key in self.keys.items()}}))
            keys.chmod(0o600)
            settings = ROOT / "services/edge-gateway/envoy/cluster.yaml"
            run(
                BIN / "edge-gateway",
                "routes",
                "--settings",
                settings,
                "--keys-file",
                keys,
                "--out",
                folder / "routes",
            )
            self.secret("llm", "edge-routes", {"routes.yaml": (folder / "routes").read_text()})

    def values(self) -> list[str]:
        """Return the arguments that pass the registry to scripts/deploy or helm."""
        if not self.registry:
            return []
        file = self.folder / "registry.yaml"
        if not file.exists():
            file.write_text(yaml.safe_dump({"global": {"registry": self.registry}}))
        return ["-f", str(file)]

    def deploy(self, command: str = "deploy") -> str:
        """Run scripts/deploy or scripts/undeploy for the environment and return its output."""
        environment = {
            **os.environ, "HELM": str(self.helm), "KUBECTL": str(self.kubectl.program),
            "OPENAI_API_KEY": self.keys["suite"],
        }  # fmt: skip
        done = subprocess.run(
            [ROOT / "scripts" / command, ENVIRONMENT, *self.values(), "--timeout", "5m"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, f"scripts/{command} {ENVIRONMENT}:\n{done.stdout}"
        return done.stdout

    def own_values(self, release: str) -> Path:
        """Return the environment's values file of a release; it may be missing."""
        return ROOT / "helm" / "environments" / ENVIRONMENT / f"{release}.yaml"

    def upgrade(
        self,
        release: str,
        *words: str,
        chart: Path | None = None,
        own: Path | None = None,
        wait: bool = True,
    ) -> None:
        """Run ``helm upgrade`` of one release with the values of ``own`` (default: the environment's) and more ``words``."""
        chart = chart or self.chart(release)
        own = own or self.own_values(release)
        values = ["-f", str(own)] if own.exists() else []
        waiting = ["--wait", "--timeout", "4m"] if wait else []
        run(
            self.helm, "upgrade", "--install", release, chart, "-n", self.namespace(release), *values, *self.values(),
            *words, *waiting, timeout=300,
        )  # fmt: skip

    def releases(self) -> list[dict[str, str]]:
        """Return the environment's releases in the order of their installation."""
        found = yaml.safe_load((ROOT / "helm" / "releases.yaml").read_text())["releases"]
        return [one for one in found if ENVIRONMENT in one.get("environments", [ENVIRONMENT])]

    def _release(self, name: str) -> dict[str, str]:
        (found,) = (one for one in self.releases() if one["name"] == name)
        return found

    def chart(self, release: str) -> Path:
        """Return the chart's folder."""
        return ROOT / "helm" / self._release(release)["chart"]

    def namespace(self, release: str) -> str:
        """Return the release's namespace."""
        return self._release(release)["namespace"]

    # -- asking ----------------------------------------------------------------------------------

    @contextmanager
    def edge(self) -> Iterator[httpx.Client]:
        """Yield a client of one edge, with the suite's key."""
        headers = {"authorization": f"Bearer {self.keys['suite']}"}
        with (
            self.kubectl.forwarded("llm", "service/edge-gateway", 80) as url,
            httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client,
        ):
            yield client

    def ask(self, client: httpx.Client, stream: bool = False, **more: Any) -> httpx.Response:
        """Send one chat request and read its answer to the end."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **more}
        return client.post("/v1/chat/completions", json={**body, "stream": stream})

    def explain(self, request_id: str) -> dict[str, Any]:
        """Return the decision record of a request, from the router that handled it."""

        def found() -> dict[str, Any] | None:
            for pod in names(self.kubectl.pods("llm", app("router-service"))):
                with self.kubectl.forwarded("llm", f"pod/{pod}", 8000) as url:
                    answer = httpx.get(f"{url}/debug/decisions/{request_id}", timeout=10, trust_env=False)
                    if answer.status_code == 200:
                        record: dict[str, Any] = json.loads(answer.text)
                        return record
            return None

        record: dict[str, Any] = wait_for(f"a router has the record of {request_id}", found, 20)
        return record

    def whole(self, seconds: float = 240.0) -> None:
        """Wait until every deployment of the request path is available; replaced pods may still be terminating."""
        wait_for("every autoscaler has raised its deployment to its minimum", self._raised, seconds)
        self.kubectl.rolled_out("llm", *TIERS, seconds=seconds)

    def _raised(self) -> bool:
        """Return whether every deployment has its least replicas; a new one has one replica for some seconds."""
        replicas = {
            one["metadata"]["name"]: one["spec"]["replicas"]
            for one in self.kubectl.get("deployments", "-n", "llm")
        }
        bounds = [one["spec"] for one in self.kubectl.get("horizontalpodautoscalers", "-n", "llm")]
        return all(replicas[one["scaleTargetRef"]["name"]] >= one["minReplicas"] for one in bounds)

    def settled(self, seconds: float = 240.0) -> None:
        """Wait until every deployment of the request path is available and none of its pods is terminating."""
        self.whole(seconds)

        def no_rest() -> bool:
            return all(
                "deletionTimestamp" not in pod["metadata"] for pod in self.kubectl.get("pods", "-n", "llm")
            )

        wait_for("no pod is terminating", no_rest, seconds, every=1.0)
