"""The lifecycle scripts by their command lines: real kubectl, boto3 on a fake AWS, a fake terraform."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.lifecycle_world import World, dev_cluster, eks_cluster, replicas, sizes
from harness.stacks.local import ROOT

pytestmark = pytest.mark.programs


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
    assert "no node was running" in again.stdout
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
    assert [call.split()[1] for call in world.terraform_calls()[-6:]] == [
        "init",
        "plan",
        "apply",
        "output",
        "output",
        "output",
    ]
    values = yaml.safe_load((ROOT / ".run" / "cluster" / "dev.values.yaml").read_text())
    assert values["global"] == {"environment": "dev"}
    # The fake terraform returns the same for every output, so "global" is a release as well.
    release = yaml.safe_load((ROOT / ".run" / "cluster" / "dev.global.values.yaml").read_text())
    assert release == {"environment": "dev"}
    same = world.run("cluster-up", TERRAFORM_PLAN_CODE="0")
    assert same.returncode == 0
    assert "is up to date" in same.stdout


def test_terraform_gets_the_environments_files_state_and_region(world: World) -> None:
    world.answer_file.write_text('{"instance_id": "i-1"}')
    assert world.run("cluster-up", "--yes", "--region", "eu-central-1").returncode == 0
    init, plan = world.terraform_calls()[:2]
    assert init == "dev: init -input=false -backend-config=path=dev.tfstate"
    assert f"-var-file={ROOT}/infrastructure/environments/dev.tfvars" in plan
    assert plan.endswith("-var=region=eu-central-1")


def test_a_failed_plan_without_own_variables_names_the_file_to_copy(world: World) -> None:
    if (ROOT / "infrastructure" / "environments" / "dev.local.tfvars").exists():
        pytest.skip("this checkout has a dev.local.tfvars")
    failed = world.run("cluster-up", "--yes", TERRAFORM_PLAN_CODE="1")
    assert failed.returncode == 1
    assert "local.tfvars.example" in failed.stderr


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
    eks_cluster(world)
    kubernetes = world.kubernetes
    kubernetes.add("services", "edge-gateway", "llm", spec={"type": "LoadBalancer"})
    kubernetes.add("services", "router-service", "llm", spec={"type": "ClusterIP"})
    elb = world.client("elbv2")
    refused = world.run("cluster-down", answer="\n")
    assert refused.returncode == 1
    assert "Destroy everything of arn:aws:eks:us-east-1:123456789012:cluster/llm-dev" in refused.stdout
    assert kubernetes.changes == []
    # Kubernetes has not released it yet: nothing is destroyed, and the command names the reason.
    stuck = world.run("cluster-down", "--yes", "--wait-seconds", "0.2")
    assert stuck.returncode == 1
    assert edge in stuck.stderr
    assert kubernetes.changes == ["DELETE services/edge-gateway"]
    assert not any(" apply" in call for call in world.terraform_calls())
    elb.delete_load_balancer(LoadBalancerArn=edge)
    done = world.run("cluster-down", "--yes")
    assert done.returncode == 0, done.stderr
    assert "-destroy" in world.terraform_calls()[-3]
    assert world.terraform_calls()[-1].startswith("dev: apply")
    assert len(elb.describe_load_balancers()["LoadBalancers"]) == 1, "another cluster's is left alone"


def test_cluster_down_deletes_claims_while_their_driver_is_there_and_waits_for_the_volumes(
    world: World,
) -> None:
    eks_cluster(world)
    kubernetes = world.kubernetes
    kubernetes.add("persistentvolumeclaims", "data-redis-0", "llm")
    kubernetes.add("persistentvolumes", "pvc-1", spec={"persistentVolumeReclaimPolicy": "Delete"})
    kubernetes.add("persistentvolumes", "kept", spec={"persistentVolumeReclaimPolicy": "Retain"})
    mounted = {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-redis-0"}}]}
    kubernetes.add("pods", "redis-0", "llm", spec=mounted)
    used = world.run("cluster-down", "--yes")
    assert used.returncode == 1
    assert "pods still use volumes: llm/data-redis-0; run scripts/undeploy dev first" in used.stderr
    assert kubernetes.changes == []
    kubernetes.objects["pods"].clear()
    stuck = world.run("cluster-down", "--yes", "--wait-seconds", "0.2")
    assert stuck.returncode == 1
    assert "these volumes are still there: pvc-1; nothing was destroyed" in stuck.stderr
    assert "with its volume and data: llm/data-redis-0" in stuck.stdout
    assert kubernetes.changes == ["DELETE persistentvolumeclaims/data-redis-0"]
    assert not any(" apply" in call for call in world.terraform_calls())
    kubernetes.objects["persistentvolumes"].pop(0)
    done = world.run("cluster-down", "--yes")
    assert done.returncode == 0, done.stderr
    assert "What remains: the Terraform state" in done.stdout


def bucket_and_repository(world: World, *, kept: bool) -> None:
    """Create them in AWS, with content, and in the state that `terraform show` reports."""
    storage, images = world.client("s3"), world.client("ecr")
    storage.create_bucket(Bucket="llm-dev-logs")
    storage.put_bucket_versioning(Bucket="llm-dev-logs", VersioningConfiguration={"Status": "Enabled"})
    storage.put_object(Bucket="llm-dev-logs", Key="a", Body=b"x")
    storage.delete_object(Bucket="llm-dev-logs", Key="a")  # leaves an old version and a delete marker
    images.create_repository(repositoryName="llm-dev/router-service")
    manifest = '{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}'
    images.put_image(repositoryName="llm-dev/router-service", imageManifest=manifest, imageTag="1")
    resources = [
        {"mode": "managed", "type": "aws_s3_bucket", "values": {"bucket": "llm-dev-logs", "force_destroy": not kept}},
        {
            "mode": "managed", "type": "aws_ecr_repository",
            "values": {"name": "llm-dev/router-service", "force_delete": not kept},
        },
    ]  # fmt: skip
    module = {"child_modules": [{"resources": resources}]}
    world.state_file.write_text(json.dumps({"prior_state": {"values": {"root_module": module}}}))


def test_cluster_down_names_buckets_and_repositories_that_would_stop_it_half_way(world: World) -> None:
    eks_cluster(world)
    world.kubernetes.add("services", "edge", "llm", spec={"type": "LoadBalancer"})
    bucket_and_repository(world, kept=True)
    done = world.run("cluster-down", "--yes")
    assert done.returncode == 1
    assert (
        "refuses to delete what holds data: bucket llm-dev-logs, repository llm-dev/router-service;"
        in done.stderr
    )
    assert "set force_destroy = true in dev.local.tfvars, run scripts/cluster-up dev" in done.stderr
    assert world.kubernetes.changes == []
    assert not any(" apply " in call for call in world.terraform_calls())


def test_cluster_down_leaves_content_to_terraform_where_it_may_delete_it(world: World) -> None:
    eks_cluster(world)
    bucket_and_repository(world, kept=False)
    done = world.run("cluster-down", "--yes")
    assert done.returncode == 0, done.stderr
    assert any("apply" in call for call in world.terraform_calls())


def test_cluster_down_without_a_cluster_in_aws_touches_no_kubernetes(world: World) -> None:
    """After a failed destroy, the kubeconfig may point to another cluster."""
    world.kubernetes.add("services", "edge-gateway", "llm", spec={"type": "LoadBalancer"})
    done = world.run("cluster-down", "--yes")
    assert done.returncode == 0, done.stderr
    assert world.kubernetes.changes == []


@pytest.mark.parametrize("script", ["cluster-down", "night-off", "resume"])
@pytest.mark.parametrize("where", ["other name", "prod", "own name, other server"])
def test_a_context_that_leads_elsewhere_is_refused(world: World, script: str, where: str) -> None:
    dev_cluster(world)
    arn = world.client("eks").describe_cluster(name="llm-dev")["cluster"]["arn"]
    name = {"other name": "kind", "prod": arn.replace("dev", "prod"), "own name, other server": arn}[where]
    world.kubernetes.kubeconfig(world.folder / "kubeconfig", name)
    world.kubernetes.add("services", "edge-gateway", "llm", spec={"type": "LoadBalancer"})
    before = sizes(world)
    done = world.run(script, *(["--yes"] if script == "cluster-down" else []))
    assert done.returncode == 1
    assert arn in done.stderr
    assert "aws eks update-kubeconfig --region us-east-1 --name llm-dev" in done.stderr
    assert "Traceback" not in done.stderr
    assert world.kubernetes.changes == []
    assert sizes(world) == before
    assert not any(" apply" in call for call in world.terraform_calls())


def test_an_unknown_environment_is_refused(world: World) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "cost-report", "nowhere"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "dev" in done.stderr
