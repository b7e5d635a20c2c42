"""The scripts as a person runs them: real kubectl on a stateful API server, boto3 on a fake AWS, a terraform that
writes down what it was asked (no provider can be fetched here)."""

import json
import os
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from moto.server import ThreadedMotoServer

from harness.fake_kubernetes import FakeKubernetes, fake_kubernetes
from harness.kubernetes_tools import tool

pytestmark = pytest.mark.service

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = yaml.safe_load((ROOT / "infrastructure" / "contract.yaml").read_text())
LABEL, _, VALUE = CONTRACT["engine_selector"].partition("=")
ROLE = "arn:aws:iam::123456789012:role/x"


class World:
    """A dev cluster in a fake AWS, its API server, and the scripts' environment."""

    def __init__(self, folder: Path, aws_url: str, kubernetes: FakeKubernetes) -> None:
        self.kubernetes = kubernetes
        self.called = folder / "terraform-calls"
        self.called.touch()
        binaries = folder / "bin"
        binaries.mkdir()
        (binaries / "kubectl").symlink_to(tool("kubectl"))
        self.answer_file = folder / "terraform-output.json"
        self.answer_file.write_text("{}")
        terraform = binaries / "terraform"
        terraform.write_text(
            textwrap.dedent(f"""\
            #!/bin/sh
            echo "$(basename "$PWD"): $*" >> {self.called}
            case "$1" in
              plan) echo "Plan: 3 to add"; exit ${{TERRAFORM_PLAN_CODE:-2}};;
              output) cat {self.answer_file}; exit 0;;
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
        return boto3.client(
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
            timeout=90,
        )

    def terraform_calls(self) -> list[str]:
        return self.called.read_text().splitlines()


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def world(tmp_path: Path, aws_url: str) -> Iterator[World]:
    with fake_kubernetes() as kubernetes:
        made = World(tmp_path, aws_url, kubernetes)
        httpx.post(f"{aws_url}/moto-api/reset").raise_for_status()
        yield made


def dev_cluster(world: World) -> None:
    """Two node groups in AWS, engines in Kubernetes; nodes and pods follow what is asked of them."""
    eks = world.client("eks")
    eks.create_cluster(name="llm-dev", roleArn=ROLE, resourcesVpcConfig={"subnetIds": ["subnet-1"]})
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


def test_a_night_and_a_morning_through_the_real_kubectl(world: World) -> None:
    dev_cluster(world)
    before = sizes(world), replicas(world)
    rehearsed = world.run("night-off", "--dry-run")
    assert rehearsed.returncode == 0, rehearsed.stderr
    assert (sizes(world), replicas(world)) == before
    assert world.kubernetes.changes == []
    night = world.run("night-off")
    assert night.returncode == 0, night.stderr
    assert replicas(world) == {"mistral": 0, "llama": 0}
    assert {name: size["desiredSize"] for name, size in sizes(world).items()} == {"system": 0, "gpu": 0}
    # Two g5.xlarge at 1.006 and two m7i.large at 0.1008 for 12 hours.
    assert "saves 26.56 USD" in night.stdout
    again = world.run("night-off")
    assert again.returncode == 0, again.stderr
    assert "no node was awake" in again.stdout
    morning = world.run("resume")
    assert morning.returncode == 0, morning.stderr
    assert (sizes(world), replicas(world)) == before
    annotations = [o["metadata"].get("annotations", {}) for o in world.kubernetes.objects["deployments"]]
    assert annotations == [{}], "nothing is remembered any more"


def test_an_engine_that_keda_scales_stays_asleep_and_is_handed_back(world: World) -> None:
    dev_cluster(world)
    labels = {"app.kubernetes.io/component": "inference-engine"}
    scaler = world.kubernetes.add("scaledobjects", "mistral", "llm", labels=labels, spec={})
    assert world.run("night-off").returncode == 0
    paused = "autoscaling.keda.sh/paused-replicas"
    assert scaler["metadata"]["annotations"] == {paused: "0"}
    changes = [change for change in world.kubernetes.changes if "mistral" in change]
    assert changes == ["PATCH scaledobjects/mistral", "PATCH deployments/mistral"], (
        "held still before it is scaled"
    )
    assert world.run("resume").returncode == 0
    assert scaler["metadata"]["annotations"] == {}


def test_an_api_server_that_is_not_there_is_one_sentence(world: World, tmp_path: Path) -> None:
    dev_cluster(world)
    (tmp_path / "nowhere").write_text(
        (tmp_path / "kubeconfig").read_text().replace(str(world.kubernetes.port), "1")
    )
    done = world.run("night-off", KUBECONFIG=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "kubectl get" in done.stderr
    assert "Traceback" not in done.stderr
    assert {name: size["desiredSize"] for name, size in sizes(world).items()} == {"system": 2, "gpu": 2}


def test_cluster_up_shows_the_plan_asks_and_writes_the_charts_values(world: World, tmp_path: Path) -> None:
    world.answer_file.write_text(json.dumps({"global": {"environment": "dev"}, "instance_id": "i-1"}))
    refused = world.run("cluster-up", answer="no\n")
    assert refused.returncode == 1
    assert "nothing was changed" in refused.stderr
    assert [call.split()[1] for call in world.terraform_calls()] == ["init", "plan"]
    nobody = world.run("cluster-up")
    assert nobody.returncode == 1
    assert "--yes does not ask" in nobody.stderr
    done = world.run("cluster-up", answer="yes\n")
    assert done.returncode == 0, done.stderr
    assert "Plan: 3 to add" in done.stdout
    assert [call.split()[1] for call in world.terraform_calls()[-5:]] == [
        "init",
        "plan",
        "apply",
        "output",
        "output",
    ]
    values = yaml.safe_load((ROOT / ".run" / "cluster" / "dev.values.yaml").read_text())
    assert values["global"] == {"environment": "dev"}
    same = world.run("cluster-up", TERRAFORM_PLAN_CODE="0")
    assert same.returncode == 0
    assert "as it should be" in same.stdout


def test_a_terraform_that_fails_or_is_missing_is_one_sentence(world: World, tmp_path: Path) -> None:
    failed = world.run("cluster-up", "--yes", TERRAFORM_APPLY_CODE="1")
    assert failed.returncode == 1
    assert "terraform apply in" in failed.stderr
    assert "Traceback" not in failed.stderr
    (tmp_path / "bin" / "terraform").unlink()
    missing = world.run("cluster-up", "--yes", PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert missing.returncode == 1
    assert "terraform is not on PATH: install it" in missing.stderr


def load_balancer(world: World, name: str, cluster: str) -> str:
    ec2, elb = world.client("ec2"), world.client("elbv2")
    subnets = [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"][:2]]
    made = elb.create_load_balancer(Name=name, Subnets=subnets, Type="network")["LoadBalancers"][0]
    elb.add_tags(
        ResourceArns=[made["LoadBalancerArn"]], Tags=[{"Key": "elbv2.k8s.aws/cluster", "Value": cluster}]
    )
    return str(made["LoadBalancerArn"])


def test_cluster_down_removes_load_balancers_before_it_destroys(world: World) -> None:
    edge = load_balancer(world, "edge", "llm-dev")
    load_balancer(world, "others", "llm-prod")
    kubernetes = world.kubernetes
    kubernetes.add("services", "edge-gateway", "llm", spec={"type": "LoadBalancer"})
    kubernetes.add("services", "router-service", "llm", spec={"type": "ClusterIP"})
    elb = world.client("elbv2")
    refused = world.run("cluster-down", answer="\n")
    assert refused.returncode == 1
    assert kubernetes.changes == []
    # Kubernetes has not let go of it yet: nothing is destroyed, and what stands in the way is named.
    stuck = world.run("cluster-down", "--yes", "--wait-seconds", "0.2")
    assert stuck.returncode == 1
    assert edge in stuck.stderr
    assert kubernetes.changes == ["DELETE services/edge-gateway"]
    assert not any(" apply" in call for call in world.terraform_calls())
    elb.delete_load_balancer(LoadBalancerArn=edge)
    done = world.run("cluster-down", "--yes")
    assert done.returncode == 0, done.stderr
    assert "-destroy" in world.terraform_calls()[-2]
    assert world.terraform_calls()[-1].startswith("dev: apply")
    assert len(elb.describe_load_balancers()["LoadBalancers"]) == 1, "another cluster's is left alone"


def test_the_cost_report_counts_what_carries_the_environments_tag(world: World) -> None:
    dev_cluster(world)
    ec2 = world.client("ec2")
    tags = [
        {"Key": CONTRACT["tags"]["environment"], "Value": "dev"},
        {"Key": CONTRACT["tags"]["component"], "Value": "gpu-nodes"},
    ]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    for environment, count in (("dev", 2), ("prod", 3)):
        tags[0]["Value"] = environment
        ec2.run_instances(
            ImageId=image, MinCount=count, MaxCount=count, InstanceType="g5.xlarge",
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )  # fmt: skip
    report = world.run("cost-report")
    assert report.returncode == 0, report.stderr
    lines = {line.split()[1]: line.split() for line in report.stdout.splitlines() if len(line.split()) > 3}
    assert lines["g5.xlarge"][2:4] == ["2", "2.012"]
    assert lines["eks-cluster"][2] == "1"
    assert "NOT VERIFIED" in report.stdout
    assert "2.112 USD an hour" in report.stdout


def test_nothing_running_is_said(world: World) -> None:
    report = world.run("cost-report")
    assert (report.returncode, report.stdout.strip()) == (0, "nothing of dev runs in us-east-1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hourly: {x: {usd: cheap}}", "hourly.x: usd 'cheap' must be a number"),
        ("hourly: {x: {usd: 1, verified: true}}", "hourly.x: a verified price needs usd and the date"),
        ("prices: {}", "cannot be read as a price file"),
    ],
)
def test_a_bad_price_file_is_refused_by_its_entry(world: World, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    done = world.run("cost-report", "--planned", "--prices", str(tmp_path / "prices.yaml"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_environment_is_refused(world: World) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "cost-report", "nowhere"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "dev" in done.stderr
