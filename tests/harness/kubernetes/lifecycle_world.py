"""The environment of the lifecycle scripts: kubectl on a stateful API server, a fake AWS, a fake terraform.

The fake terraform only records its calls, because no provider can be downloaded here.
"""

import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import yaml

from harness.kubernetes.fake_api_server import FakeKubernetes
from harness.kubernetes.tools import tool
from harness.stacks.local import ROOT

CONTRACT = yaml.safe_load((ROOT / "infrastructure" / "contract.yaml").read_text())
LABEL, _, VALUE = CONTRACT["engine_selector"].partition("=")
ROLE = "arn:aws:iam::123456789012:role/x"


class World:
    """A dev cluster in a fake AWS, its API server, and the scripts' environment."""

    def __init__(self, folder: Path, aws_url: str, kubernetes: FakeKubernetes) -> None:
        self.kubernetes = kubernetes
        self.folder = folder
        self.called = folder / "terraform-calls"
        self.called.touch()
        binaries = folder / "bin"
        binaries.mkdir()
        (binaries / "kubectl").symlink_to(tool("kubectl"))
        self.answer_file = folder / "terraform-output.json"
        self.answer_file.write_text("{}")
        self.state_file = folder / "terraform-show.json"
        self.state_file.write_text("{}")
        terraform = binaries / "terraform"
        terraform.write_text(
            textwrap.dedent(f"""\
            #!/bin/sh
            echo "$(basename "$TF_DATA_DIR"): $*" >> {self.called}
            case "$1" in
              plan) echo "Plan: 3 to add"; exit ${{TERRAFORM_PLAN_CODE:-2}};;
              output) cat {self.answer_file}; exit 0;;
              show) cat {self.state_file}; exit 0;;
              apply) exit ${{TERRAFORM_APPLY_CODE:-0}};;
            esac
            """)
        )
        terraform.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "HOME": str(folder),
            "KUBECONFIG": str(kubernetes.kubeconfig(folder / "kubeconfig")),
            "AWS_ENDPOINT_URL": aws_url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.aws_url = aws_url

    def client(self, service: str) -> Any:
        make: Any = boto3.client  # The type stubs accept only literal service names.
        return make(
            service, region_name="us-east-1", endpoint_url=self.aws_url,
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip

    def run(
        self, script: str, *words: str, answer: str = "", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        quick = () if script == "cost-report" else ("--poll-seconds", "0.05", "--wait-seconds", "10")
        return subprocess.run(
            [ROOT / "scripts" / script, "dev", *quick, *words],
            env={**self.environment, **variables},
            input=answer,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def terraform_calls(self) -> list[str]:
        return self.called.read_text().splitlines()


def eks_cluster(world: World, name: str = "llm-dev") -> Any:
    """Create the cluster in AWS, and a kubeconfig that reaches it through a tunnel, as in docs/infrastructure.md."""
    eks = world.client("eks")
    eks.create_cluster(name=name, roleArn=ROLE, resourcesVpcConfig={"subnetIds": ["subnet-1"]})
    cluster = eks.describe_cluster(name=name)["cluster"]
    world.kubernetes.kubeconfig(
        world.folder / "kubeconfig", cluster["arn"], urlsplit(cluster["endpoint"]).netloc
    )
    return eks


def dev_cluster(world: World) -> None:
    """Two node groups in AWS and engines in Kubernetes; nodes and pods follow the requested sizes."""
    eks = eks_cluster(world)
    for pool, kind, size in (("system", "m7i.large", (2, 2, 4)), ("gpu", "g5.xlarge", (0, 2, 2))):
        eks.create_nodegroup(
            clusterName="llm-dev", nodegroupName=pool, nodeRole=ROLE, subnets=["subnet-1"],
            labels={CONTRACT["pool_label"]: pool}, instanceTypes=[kind],
            scalingConfig=dict(zip(("minSize", "desiredSize", "maxSize"), size, strict=True)),
        )  # fmt: skip
    kubernetes = world.kubernetes
    for kind, name, replicas in (("deployments", "mistral", 1), ("statefulsets", "llama", 2)):
        kubernetes.add(kind, name, "llm", labels={LABEL: VALUE}, spec={"replicas": replicas}, status={})

    def controllers() -> None:
        engines = [*kubernetes.objects["deployments"], *kubernetes.objects["statefulsets"]]
        kubernetes.objects["pods"] = []
        for engine in engines:
            engine["status"] = {"readyReplicas": engine["spec"]["replicas"]}
            for number in range(engine["spec"]["replicas"]):
                kubernetes.add("pods", f"{engine['metadata']['name']}-{number}", "llm", labels={LABEL: VALUE})
        kubernetes.objects["nodes"] = []
        for pool, size in sizes(world).items():
            gpus = {CONTRACT["gpu_resource"]: "1"} if pool == "gpu" else {}
            for number in range(size["desiredSize"]):
                ready = [{"type": "Ready", "status": "True"}]
                kubernetes.add("nodes", f"{pool}-{number}", status={"conditions": ready, "allocatable": gpus})

    kubernetes.before_read = controllers


def sizes(world: World) -> dict[str, dict[str, int]]:
    eks = world.client("eks")
    return {
        name: eks.describe_nodegroup(clusterName="llm-dev", nodegroupName=name)["nodegroup"]["scalingConfig"]
        for name in eks.list_nodegroups(clusterName="llm-dev")["nodegroups"]
    }


def replicas(world: World) -> dict[str, int]:
    found = [*world.kubernetes.objects["deployments"], *world.kubernetes.objects["statefulsets"]]
    return {item["metadata"]["name"]: item["spec"]["replicas"] for item in found}
