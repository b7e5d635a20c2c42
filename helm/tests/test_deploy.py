"""scripts/deploy: the environments render and agree with each other, and what a cluster lacks is said at once.

The real kubectl asks a stateful API server; the real helm renders. Installing needs a cluster: here a stand-in for
helm notes the order of installations and removals, and everything before and after them is real.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.fake_kubernetes import FakeKubernetes, fake_kubernetes
from harness.kubernetes_tools import tool
from harness.router_fleet import BIN, fleet_in
from platform_deploy.needs import CRD_VERSIONS, read_needs
from platform_deploy.prerequisites import Cluster, lacks
from platform_deploy.releases import releases_of

pytestmark = pytest.mark.service

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / "helm"
ENVIRONMENTS = ("dev", "kind", "prod")
RELEASES = yaml.safe_load((HELM / "releases.yaml").read_text())["releases"]
CONTRACT = yaml.safe_load((ROOT / "infrastructure" / "contract.yaml").read_text())
# What scripts/cluster-up hands over, as far as charts read it.
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


@pytest.fixture
def cluster() -> Iterator[FakeKubernetes]:
    """A cluster that has everything."""
    with fake_kubernetes() as state:
        state.add("nodes", "gpu", status={"allocatable": {"nvidia.com/gpu": "4"}})
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        state.add("storageclasses", "ebs-csi-default-sc", annotations=default)
        state.add("apiservices", "v1beta1.metrics.k8s.io")
        state.add("deployments", "aws-load-balancer-controller", "kube-system")
        state.add("secrets", "redis", "llm", data={"password": "eA=="})
        state.add("secrets", "edge-routes", "llm", data={"routes.yaml": "eA=="})
        state.add("secrets", "edge-tls", "llm", data={"tls.crt": "eA==", "tls.key": "eA=="})
        state.add("secrets", "grafana", "observability", data={"admin-user": "", "admin-password": ""})
        yield state


class Script:
    """Runs scripts/deploy or scripts/undeploy; ``installed`` is what the stand-in for helm was asked to change."""

    def __init__(self, folder: Path, cluster: FakeKubernetes) -> None:
        self._log = folder / "helm.log"
        stand_in = folder / "helm"
        stand_in.write_text(
            f'#!/bin/sh\ncase "$1" in\n  template) exec {tool("helm")} "$@" ;;\n'
            f'  list) grep -o "^upgrade --install [a-z0-9-]*" {self._log} | cut -d" " -f3 ;;\n'
            f'  *) echo "$@" >> {self._log} ;;\nesac\n'
        )
        stand_in.chmod(0o755)
        self.values = folder / "handed-over.yaml"
        self.values.write_text(yaml.safe_dump(HANDED_OVER))
        self._environment = {
            **os.environ,
            "HELM": str(stand_in),
            "KUBECTL": str(tool("kubectl")),
            "KUBECONFIG": str(cluster.kubeconfig(folder / "kubeconfig")),
        }

    def __call__(self, name: str, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "scripts" / name), *words]
        environment = {**self._environment, "OPENAI_API_KEY": key}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=200, env=environment
        )

    @property
    def installed(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def script(tmp_path: Path, cluster: FakeKubernetes) -> Script:
    return Script(tmp_path, cluster)


def releases_in(environment: str) -> list[str]:
    return [one["name"] for one in RELEASES if environment in one.get("environments", ENVIRONMENTS)]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everything_is_there_so_everything_is_installed_in_order(environment: str, script: Script) -> None:
    done = script("deploy", environment, "-f", str(script.values))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[2] for line in script.installed] == releases_in(environment)
    assert all("--wait" in line and str(script.values) in line for line in script.installed)
    assert "No request was made: set OPENAI_API_KEY" in done.stdout


def rendered_images(environment: str, folder: Path) -> set[str]:
    values = folder / "global.yaml"
    values.write_text(yaml.safe_dump(HANDED_OVER))
    found: set[str] = set()
    for release in RELEASES:
        if environment not in release.get("environments", ENVIRONMENTS):
            continue
        own = HELM / "environments" / environment / f"{release['name']}.yaml"
        words = ["-f", str(own)] if own.exists() else []
        done = subprocess.run(
            [tool("helm"), "template", "r", HELM / release["chart"], *words, "-f", values],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        found |= {
            line.split("image: ", 1)[1].strip() for line in done.stdout.splitlines() if " image: " in line
        }
    return found


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_our_images_come_from_the_environments_registry_and_others_from_their_own(
    environment: str, tmp_path: Path
) -> None:
    versions = yaml.safe_load((ROOT / "versions.yaml").read_text())["images"]
    foreign = {f"{facts['source']}:{facts['version']}" for facts in versions.values()}
    registry = HANDED_OVER["global"]["registry"]
    ours = {f"{registry}/{name}:0.1.0" for name in CONTRACT["images"]}
    images = rendered_images(environment, tmp_path)
    assert images <= ours | foreign
    assert images & ours


def test_a_dry_run_changes_nothing_and_says_every_command(script: Script, cluster: FakeKubernetes) -> None:
    done = script("deploy", "prod", "-f", str(script.values), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert script.installed == []
    assert cluster.changes == []
    assert sum("helm upgrade --install" in line for line in done.stdout.splitlines()) == len(
        releases_in("prod")
    )


LACKS = {
    "nodes": "no node has nvidia.com/gpu: are GPU nodes up",
    "storageclasses": 'there is no storage class "ebs-csi-default-sc" (known: none)',
    "apiservices": "metrics-server is missing",
    "deployments": "aws-load-balancer-controller is not in kube-system",
    "secrets": "there is no Secret edge-routes in llm: edge-gateway routes",
}


def test_all_that_is_missing_is_said_at_once_with_its_remedy_and_nothing_is_installed(
    script: Script, cluster: FakeKubernetes
) -> None:
    for resource in LACKS:
        cluster.objects[resource].clear()
    done = script("deploy", "prod", "-f", str(script.values))
    assert done.returncode == 1
    for said in LACKS.values():
        assert said in done.stderr
    assert "nothing was installed" in done.stderr
    assert script.installed == []


@pytest.mark.parametrize("resource", LACKS)
def test_one_thing_missing_is_one_line(resource: str, script: Script, cluster: FakeKubernetes) -> None:
    cluster.objects[resource].clear()
    done = script("deploy", "prod", "-f", str(script.values), "--dry-run")
    assert done.returncode == 1
    assert LACKS[resource] in done.stderr
    assert sum("missing:" in line for line in done.stderr.splitlines()) == (4 if resource == "secrets" else 1)


def test_a_secret_without_its_key_is_named(script: Script, cluster: FakeKubernetes) -> None:
    cluster.objects["secrets"][0]["data"] = {"pass": "eA=="}
    done = script("deploy", "kind", "--dry-run")
    assert done.returncode == 1
    assert (
        "the Secret redis in llm has no key password: kubectl -n llm create secret generic redis"
        in done.stderr
    )


def test_operators_that_values_ask_for_are_missed_by_name_and_cert_manager_fills_its_own_secret(
    cluster: FakeKubernetes, tmp_path: Path
) -> None:
    """It renders as scripts/deploy does: as if every operator were there."""
    documents = []
    for release in releases_of(HELM, "prod", []):
        more = {
            "edge": ["--set-json",
                     'tls.certManager={"enabled": true, "issuer": {"name": "ours"}, "dnsNames": ["llm.example.com"]}'],
            "llama-8b": ["--set", "keda.enabled=true"],
        }.get(release.name)  # fmt: skip
        if more:
            command = [tool("helm"), "template", *release.words(), *more]
            command += [f"--api-versions={one}" for one in CRD_VERSIONS]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stderr
            documents += [
                (release.namespace, one) for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one
            ]
    needs = read_needs(documents)
    assert ("llm", "edge-routes") in needs.secrets
    assert ("llm", "edge-tls") not in needs.secrets
    kubectl = [str(tool("kubectl")), "--kubeconfig", str(cluster.kubeconfig(tmp_path / "kubeconfig"))]
    missing, _ = lacks(Cluster(kubectl), needs)
    assert missing == [
        "the CRDs of cert-manager.io are missing: install cert-manager, or make the Secret yourself and set "
        "tls.certManager.enabled to false",
        "the CRDs of keda.sh are missing: install KEDA, or set keda.enabled to false",
    ]


def test_too_few_gpus_are_a_note_since_nodes_may_still_come(script: Script, cluster: FakeKubernetes) -> None:
    cluster.objects["nodes"][0]["status"]["allocatable"]["nvidia.com/gpu"] = "1"
    done = script("deploy", "prod", "-f", str(script.values), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "4 GPUs are needed and 1 are there now" in done.stdout


def test_kind_needs_no_gpu_no_load_balancer_and_no_values_from_terraform(
    script: Script, cluster: FakeKubernetes
) -> None:
    for resource in ("nodes", "deployments", "apiservices", "storageclasses"):
        cluster.objects[resource].clear()
    done = script("deploy", "kind", "--dry-run")
    assert done.returncode == 0, done.stderr


def test_removal_goes_the_other_way_and_only_what_is_there(script: Script) -> None:
    assert script("deploy", "kind").returncode == 0
    installed = [line.split()[2] for line in script.installed]
    done = script("undeploy", "dev", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "smollm2" not in done.stdout, "it is not a release of dev"
    assert script("undeploy", "kind").returncode == 0
    removed = [line.split()[1] for line in script.installed if line.startswith("uninstall")]
    assert removed == installed[::-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("staging",), '"staging" is no environment (known: dev, kind, prod)'),
        (("dev", "-f", "/no/such.yaml"), "/no/such.yaml: no such file"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str, script: Script) -> None:
    done = script("deploy", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_cannot_be_reached_is_one_sentence(script: Script, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    done = script("deploy", "kind")
    assert done.returncode == 1
    assert "kubectl get nodes:" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_ends_with_a_real_streamed_request(script: Script, tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        engine = fleet.add_engine("engine-a")
        done = script("deploy", "kind", "--edge-url", engine.url, key="k")
        assert done.returncode == 0, done.stderr
        assert "answered: " in done.stdout
        engine.fault(kind="clean_truncation", after_chunks=2)
        done = script("deploy", "kind", "--edge-url", engine.url, key="k")
        assert done.returncode == 1
        assert "the stream did not end with [DONE]" in done.stderr


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_router_of_an_environment_finds_its_engines_and_passes_its_own_check(
    environment: str, tmp_path: Path
) -> None:
    def rendered(release: dict[str, Any]) -> list[dict[str, Any]]:
        own = HELM / "environments" / environment / f"{release['name']}.yaml"
        words = ["-f", str(own)] if own.exists() else []
        (tmp_path / "global.yaml").write_text(yaml.safe_dump(HANDED_OVER))
        done = subprocess.run(
            [
                tool("helm"), "template", release["name"], HELM / release["chart"], "-n", release["namespace"],
                *words, "-f", tmp_path / "global.yaml",
            ],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]

    here = [one for one in RELEASES if environment in one.get("environments", ENVIRONMENTS)]
    services = set()
    served = set()
    for release in here:
        if release["chart"] == "inference-backend":
            for document in rendered(release):
                if document["kind"] == "Service":
                    services.add(document["metadata"]["name"])
                if document["kind"] == "ConfigMap":
                    model = yaml.safe_load(document["data"]["model.yaml"])
                    served |= {model["name"], *model["aliases"]}
    (router,) = (release for release in here if release["chart"] == "router-service")
    (config,) = (document for document in rendered(router) if document["kind"] == "ConfigMap")
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    pools = yaml.safe_load(config["data"]["router.yaml"])["pools"]
    for name, pool in pools.items():
        assert pool["discover"]["endpoint_slices"]["service"] in services, name
        assert {*pool["models"], *pool.get("aliases", {})} <= served, name
    done = subprocess.run(
        [BIN / "router-service", "check", "--config", tmp_path / "router.yaml"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
