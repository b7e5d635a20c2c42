"""Every chart with every example: checked against the schemas of Kubernetes and against the other charts."""

import subprocess
from pathlib import Path

import pytest
import yaml

from harness.kubernetes.charts import (
    CHARTS,
    CONTRACT,
    ENGINE,
    EXAMPLES,
    HELM,
    ROOT,
    containers,
    helm,
    manifests,
    name_of,
    one,
    pod_specs,
    template,
)
from podrunner.network import selects

pytestmark = pytest.mark.programs

VALIDATE = ROOT / ".venv-tools" / "bin" / "kubernetes-validate"


@pytest.mark.parametrize("chart", sorted(path.parent.name for path in HELM.glob("*/Chart.yaml")))
def test_the_defaults_of_a_chart_lint(chart: str) -> None:
    """Templates must render after a `fail`, because helm lint reports it and continues."""
    lint = helm("lint", HELM / chart)
    assert lint.returncode == 0, lint.stdout + lint.stderr


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_an_example_lints_and_fits_the_schemas_of_kubernetes(example: Path, tmp_path: Path) -> None:
    chart = example.parents[1]
    lint = helm("lint", "--strict", chart, "-f", example)
    assert lint.returncode == 0, lint.stdout
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(template(chart.name, example).stdout)
    for version in ("1.31", "1.35"):
        done = subprocess.run(
            [VALIDATE, "-k", version, "--strict", rendered],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "WARN" not in said, said
        assert said.count("passed") == len(manifests(chart.name, example))


# DCGM reads profiling counters of the device, and which pod holds it: root, SYS_ADMIN and one folder of the node.
NOT_RESTRICTED = {"llm-dcgm-exporter"}


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_pods_are_restricted_bounded_and_on_a_network_of_named_edges(example: Path) -> None:
    chart = example.parents[1].name
    documents = manifests(chart, example)
    exempt = chart in NOT_RESTRICTED
    for spec in pod_specs(documents):
        assert exempt or spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(spec):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert exempt or security["readOnlyRootFilesystem"] is True
            assert security["capabilities"]["drop"] == ["ALL"]
            assert exempt or "add" not in security["capabilities"]
            assert container["resources"]["limits"]["memory"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert not container["image"].endswith((":latest", ":"))
    policies = [document for document in documents if document["kind"] == "NetworkPolicy"]
    assert all(policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies)
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
            labels = document["spec"]["template"]["metadata"]["labels"]
            selecting = [one for one in policies if selects(one["spec"]["podSelector"], labels)]
            assert len(selecting) == 1, document["metadata"]["name"]
    accounts = [document for document in documents if document["kind"] == "ServiceAccount"]
    # The pods of `helm test` have no account.
    used = {spec["serviceAccountName"] for spec in pod_specs(documents) if "serviceAccountName" in spec}
    assert sorted(account["metadata"]["name"] for account in accounts) == sorted(used)
    assert not any(account["automountServiceAccountToken"] for account in accounts)


def test_charts_agree_with_each_other_and_with_the_cluster() -> None:
    router = manifests("router-service", HELM / "router-service/examples/two-pools.yaml")
    edge = manifests("edge-gateway", HELM / "edge-gateway/examples/internal.yaml")
    store = manifests("llm-redis", HELM / "llm-redis/examples/cache.yaml")
    assert one(router, "Service", "router-service")["spec"]["ports"][0]["port"] == 8000
    assert one(store, "Service", "redis")["spec"]["ports"][0]["port"] == 6379
    envoy = one(edge, "ConfigMap", "edge-gateway")["data"]["envoy.yaml"]
    assert one(router, "Service", "router-service-headless")["spec"]["clusterIP"] == "None"
    assert "router-service-headless.llm.svc.cluster.local" in envoy
    configuration = yaml.safe_load(one(router, "ConfigMap", "router-service")["data"]["router.yaml"])
    assert configuration["redis"]["url"] == "redis://redis.llm.svc.cluster.local:6379/0"
    engines = one(router, "NetworkPolicy", "router-service")["spec"]["egress"][0]["to"][0]["podSelector"]
    key, _, value = CONTRACT["engine_selector"].partition("=")
    assert engines["matchLabels"] == {key: value}
    clients = one(store, "NetworkPolicy", "redis")["spec"]["ingress"][0]["from"][0]["podSelector"]
    assert set(clients["matchExpressions"][0]["values"]) == {
        "router-service", "router-service-rollout", "rate-limit-service"
    }  # fmt: skip
    budgets = manifests("rate-limit-service", HELM / "rate-limit-service/examples/one-budget.yaml")
    settings = yaml.safe_load(one(budgets, "ConfigMap", "rate-limit-service")["data"]["settings.yaml"])
    assert settings["budgets"]["redis_url"] == "redis://redis.llm.svc.cluster.local:6379/1"
    assert one(budgets, "Service", "rate-limit-service")["spec"]["ports"][0]["port"] == 8081
    engine = manifests(ENGINE, HELM / ENGINE / "examples/mistral-7b.yaml")
    ours = {
        container["image"].split(":")[0].split("/")[-1]
        for spec in pod_specs(router + edge + engine)
        for container in containers(spec)
    }
    assert ours <= set(CONTRACT["images"])
    grace = {
        name: one(documents, "Deployment", name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        for name, documents in (
            ("router-service", router), ("edge-gateway", edge), ("mistral-7b-instruct-v02-awq", engine),
        )
    }  # fmt: skip
    assert grace["router-service"] > grace["mistral-7b-instruct-v02-awq"], "the router outlives its engines"
    assert grace["edge-gateway"] > grace["router-service"], "the edge outlives the router it drains through"


def test_a_registry_of_the_environment_and_a_digest_are_obeyed(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    values = {
        "global": {"registry": "reg.example/llm-platform"},
        "image": {"digest": digest},
    }
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(values))
    router = manifests("router-service", HELM / "router-service/examples/two-pools.yaml", tmp_path / "v.yaml")
    images = {spec["containers"][0]["image"] for spec in pod_specs(router)}
    assert images == {f"reg.example/llm-platform/router-service@{digest}"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_an_image_of_ours_without_a_registry_is_never_pulled(example: Path, tmp_path: Path) -> None:
    """A container runtime completes `llm-platform/NAME` with docker.io, which does not have our images."""
    (tmp_path / "v.yaml").write_text(yaml.safe_dump({"global": {"registry": "reg.example/llm-platform"}}))
    for more, ours, policy in (
        ((), "llm-platform/", "Never"),
        ((tmp_path / "v.yaml",), "reg.example/", "IfNotPresent"),
    ):
        for spec in pod_specs(manifests(example.parents[1].name, example, *more)):
            for container in containers(spec):
                if container["image"].startswith(ours):
                    assert container["imagePullPolicy"] == policy, container["name"]


@pytest.mark.parametrize(("chart", "workload"), [("llm-loki", "loki"), ("llm-tempo", "tempo")])
def test_stores_use_the_account_and_the_bucket_of_their_role(
    chart: str, workload: str, tmp_path: Path
) -> None:
    facts = CONTRACT["workloads"][workload]
    environment = {"region": "eu-central-1", "buckets": {facts["bucket"]: "made-by-terraform"}}
    (tmp_path / "v.yaml").write_text(yaml.safe_dump({"global": environment, "storage": {"kind": "s3"}}))
    documents = manifests(chart, tmp_path / "v.yaml")
    (spec,) = (
        document["spec"]["template"]["spec"] for document in documents if document["kind"] == "StatefulSet"
    )
    assert spec["serviceAccountName"] == facts["service_account"]
    assert "made-by-terraform" in next(iter(one(documents, "ConfigMap", workload)["data"].values()))


def test_selectors_find_their_pods_and_ports_exist() -> None:
    for example in EXAMPLES:
        documents = manifests(example.parents[1].name, example)
        pods = [
            document["spec"]["template"]
            for document in documents
            if document["kind"] in ("Deployment", "StatefulSet", "DaemonSet")
        ]
        for service in (document for document in documents if document["kind"] == "Service"):
            wanted = service["spec"]["selector"].items()
            (pod,) = (pod for pod in pods if wanted <= pod["metadata"]["labels"].items())
            ports = {port["name"] for part in containers(pod["spec"]) for port in part.get("ports", [])}
            targets = {port["targetPort"] for port in service["spec"]["ports"]}
            assert targets <= ports, f"{name_of(example)}: {service['metadata']['name']}"


def test_versions_of_images_and_charts_are_those_of_versions_yaml() -> None:
    versions = yaml.safe_load((ROOT / "versions.yaml").read_text())
    listed = {
        f"{facts['source']}@{facts['digest']}" if facts["digest"] else f"{facts['source']}:{facts['version']}"
        for facts in versions["images"].values()
    }
    foreign = set()
    for example in EXAMPLES:
        for spec in pod_specs(manifests(example.parents[1].name, example)):
            for container in containers(spec):
                if not container["image"].startswith("llm-platform/"):
                    foreign.add(container["image"])
    assert foreign <= listed
    for chart in CHARTS:
        facts = yaml.safe_load((chart / "Chart.yaml").read_text())
        assert versions["charts"][chart.name]["version"] == facts["version"]
