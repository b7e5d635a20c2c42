"""`scripts/deploy` against a fake cluster: real kubectl, real rendering, and a fake `helm` for changes."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.kubernetes.charts import HELM
from harness.kubernetes.fake_api_server import FakeKubernetes, fake_kubernetes
from harness.kubernetes.tools import tool
from harness.stacks.local import ROOT

ENVIRONMENTS = ("dev", "kind", "prod", "sim")
RELEASES = yaml.safe_load((HELM / "releases.yaml").read_text())["releases"]
UPSTREAM = yaml.safe_load((HELM / "releases.yaml").read_text())["upstream"]
CONTRACT = yaml.safe_load((ROOT / "infrastructure" / "contract.yaml").read_text())
# The outputs of scripts/cluster-up that charts read.
HANDED_OVER: dict[str, Any] = {
    "global": {
        "region": "eu-central-1",
        "registry": "registry.example/llm-platform",
        "storageClass": "ebs-csi-default-sc",
        "buckets": {"models": "m", "logs": "l", "traces": "t"},
        "placement": {
            pool: {"nodeSelector": {"llm-platform/pool": pool}, "tolerations": facts["taints"]}
            for pool, facts in CONTRACT["pools"].items()
        },
    }
}


@contextlib.contextmanager
def whole_cluster() -> Iterator[FakeKubernetes]:
    """Run a fake API server with every object that `deploy` requires."""
    with fake_kubernetes() as state:
        state.add("nodes", "gpu", status={"allocatable": {"nvidia.com/gpu": "4"}})
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        state.add("storageclasses", "ebs-csi-default-sc", annotations=default)
        state.add("apiservices", "v1beta1.metrics.k8s.io")
        for chart in UPSTREAM:
            resource, name = chart["workload"].split("/")
            label = {"helm.sh/chart": f"{chart['name']}-{chart['version']}"}
            state.add(resource, name, chart["namespace"], labels=label)
        state.add("secrets", "redis", "llm", data={"password": "eA=="})
        state.add("secrets", "edge-routes", "llm", data={"routes.yaml": "eA=="})
        state.add("secrets", "edge-tls", "llm", data={"tls.crt": "eA==", "tls.key": "eA=="})
        state.add("secrets", "grafana", "observability", data={"admin-user": "", "admin-password": ""})
        yield state


class Script:
    """Runs scripts/deploy or scripts/undeploy; ``installed`` lists the changes requested from the fake helm."""

    def __init__(self, folder: Path, cluster: FakeKubernetes) -> None:
        self._log = folder / "helm.log"
        self.listed = folder / "listed.json"
        """What `helm list --output json` prints."""
        self.listed.write_text("[]")
        stand_in = folder / "helm"
        stand_in.write_text(
            f'#!/bin/sh\ncase "$1" in\n  template) exec {tool("helm")} "$@" ;;\n'
            f'  list) case "$*" in *json*) exec cat {self.listed} ;; esac\n'
            f'     grep -o "^upgrade --install [a-z0-9-]*" {self._log} | cut -d" " -f3 ;;\n'
            f'  *) echo "$@" >> {self._log}\n'
            f'     case "$3" in "$FAILS") echo "context deadline exceeded" >&2; exit 1 ;; esac ;;\nesac\n'
        )
        stand_in.chmod(0o755)
        self.context = "fake"
        self.values = folder / "handed-over.yaml"
        self.values.write_text(yaml.safe_dump(HANDED_OVER))
        self.environment = {
            **os.environ,
            "HELM": str(stand_in),
            "KUBECTL": str(tool("kubectl")),
            "KUBECONFIG": str(cluster.kubeconfig(folder / "kubeconfig")),
        }

    def __call__(self, name: str, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "scripts" / name), *words]
        if self.context:
            command += ["--context", self.context]
        environment = {**self.environment, "OPENAI_API_KEY": key}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=200, env=environment
        )

    @property
    def installed(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


def releases_in(environment: str) -> list[str]:
    return [one["name"] for one in RELEASES if environment in one.get("environments", ENVIRONMENTS)]
