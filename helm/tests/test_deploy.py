"""scripts/deploy: the environments render consistently, and everything that a cluster lacks is reported at
once.

The real kubectl queries a stateful API server; the real helm renders. Installing needs a cluster, so a fake
helm records the order of installations and removals; all other steps are real.
"""

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from harness.kubernetes.charts import HELM
from harness.kubernetes.deploy_script import (
    CONTRACT,
    ENVIRONMENTS,
    HANDED_OVER,
    RELEASES,
    Script,
    releases_in,
)
from harness.kubernetes.fake_api_server import FakeKubernetes
from harness.kubernetes.tools import tool
from harness.servers.router_fleet import BIN, fleet_in
from harness.stacks.local import ROOT
from platform_tools.deploy.releases import releases_of

pytestmark = pytest.mark.programs


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everything_is_there_so_everything_is_installed_in_order(
    environment: str, script: Script, cluster: FakeKubernetes
) -> None:
    done = script("deploy", environment, "-f", str(script.values))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[2] for line in script.installed] == releases_in(environment)
    assert all("--wait" in line and str(script.values) in line for line in script.installed)
    assert "No request was made: set OPENAI_API_KEY" in done.stdout
    labels = {one["metadata"]["name"]: one["metadata"]["labels"] for one in cluster.objects["namespaces"]}
    assert labels.keys() == {release.namespace for release in releases_of(HELM, environment, [])}
    for name, found in labels.items():
        level = "privileged" if name == "observability-host" else "restricted"
        assert found["pod-security.kubernetes.io/enforce"] == level


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


def test_a_failing_release_ends_with_its_pods_the_reason_and_the_remedy(
    script: Script, cluster: FakeKubernetes
) -> None:
    script.environment["FAILS"] = "router"
    labels = {"app.kubernetes.io/instance": "router"}
    crashed = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 5, "name": "router",
               "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}}}  # fmt: skip
    cluster.add("pods", "router-abc", "llm", labels=labels, status={"containerStatuses": [crashed]},
                spec={"containers": [{"name": "router"}]}, log="router.yaml:3: no pool")  # fmt: skip
    done = script("deploy", "kind")
    assert done.returncode == 1
    assert "context deadline exceeded" in done.stderr
    assert "pod router-abc: router crashed 5 times (Error, exit code 2)" in done.stderr
    assert "router.yaml:3: no pool" in done.stderr
    assert [line.split()[2] for line in script.installed][-1] == "router", "nothing after it is installed"


def test_values_can_be_given_to_one_release(script: Script, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("replicas: 3\n")
    done = script("deploy", "kind", "-f", f"router={own}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[3] for line in done.stdout.splitlines() if str(own) in line] == ["router"]
    unknown = script("deploy", "kind", "-f", f"ruoter={own}")
    assert unknown.returncode == 2
    assert '"ruoter" is no release of this environment (known: ' in unknown.stderr


def test_undeploy_waits_until_pods_have_ended_and_says_how_long(
    script: Script, cluster: FakeKubernetes
) -> None:
    assert script("deploy", "kind").returncode == 0
    labels = {"app.kubernetes.io/instance": "edge"}
    cluster.add("pods", "edge-1", "llm", labels=labels, spec={"terminationGracePeriodSeconds": 700})
    done = script("undeploy", "kind", "--timeout", "1s")
    assert done.returncode == 1
    assert "waiting up to 700 s for pods that finish their requests: edge-1" in done.stdout
    assert "edge: pods still run after 1 s: edge-1" in done.stderr
    assert [line.split()[1] for line in script.installed if line.startswith("uninstall")] == ["edge"]


def test_undeploy_after_an_interrupted_one_waits_for_pods_that_are_still_ending(
    script: Script, cluster: FakeKubernetes
) -> None:
    cluster.add("pods", "edge-1", "llm", labels={"app.kubernetes.io/instance": "edge"})
    assert script("undeploy", "kind", "--timeout", "1s").returncode == 0, "it is not a pod of this release"
    cluster.objects["pods"][0]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    done = script("undeploy", "kind", "--timeout", "1s")
    assert done.returncode == 1
    assert "edge: pods still run after 1 s: edge-1" in done.stderr
    cluster.objects["pods"][0]["status"] = {"phase": "Failed"}
    assert script("undeploy", "kind", "--timeout", "1s").returncode == 1, "the API server still has the pod"
    cluster.objects["pods"].clear()
    assert script("undeploy", "kind", "--timeout", "1s").returncode == 0


EKS = "arn:aws:eks:eu-central-1:123456789012:cluster/llm-prod"


@pytest.mark.parametrize("command", ["deploy", "undeploy"])
@pytest.mark.parametrize(
    ("context", "said"),
    [
        ("", "not a cluster for"),
        ("fake", f'"fake" leads to {EKS}, which is not the cluster of "kind"'),
        ("other", '"other" is not in the kubeconfig (contexts: fake)'),
    ],
)
def test_the_cluster_of_another_environment_is_refused(
    command: str, context: str, said: str, script: Script, cluster: FakeKubernetes, tmp_path: Path
) -> None:
    script.context = context
    cluster.kubeconfig(tmp_path / "kubeconfig", EKS)
    done = script(command, "kind")
    assert done.returncode == 1
    assert said in done.stderr
    assert script.installed == []
    assert cluster.changes == []


def test_an_environment_on_aws_is_looked_up_and_every_command_gets_its_context(
    script: Script, cluster: FakeKubernetes, tmp_path: Path
) -> None:
    """The real boto3 queries a fake AWS for the cluster; the kubeconfig reaches it through a tunnel."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        more = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }  # fmt: skip
        script.environment |= more
        script.context = ""
        words = ("dev", "--region", "eu-central-1", "-f", str(script.values))
        absent = script("deploy", *words)
        assert absent.returncode == 1
        assert "cannot look up the EKS cluster llm-dev in eu-central-1" in absent.stderr
        eks = boto3.client(
            "eks", region_name="eu-central-1", endpoint_url=more["AWS_ENDPOINT_URL"],
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip
        network = {"subnetIds": ["subnet-1"]}
        role = "arn:aws:iam::123456789012:role/x"
        made = eks.create_cluster(name="llm-dev", roleArn=role, resourcesVpcConfig=network)["cluster"]
        unrelated = script("deploy", *words)
        assert unrelated.returncode == 1
        assert f"no kubeconfig context leads to {made['arn']}" in unrelated.stderr
        assert script.installed == []
        endpoint = str(urlsplit(made["endpoint"]).hostname)
        cluster.kubeconfig(tmp_path / "kubeconfig", made["arn"], endpoint)
        done = script("deploy", *words)
        assert done.returncode == 0, done.stderr
        assert f"dev: context fake, cluster {made['arn']} at http://127.0.0.1:" in done.stdout
        assert len(script.installed) == len(releases_in("dev"))
        assert all("--kube-context fake" in line for line in script.installed)
    finally:
        server.stop()


def test_removal_goes_the_other_way_and_only_what_is_there(script: Script) -> None:
    assert script("deploy", "kind").returncode == 0
    installed = [line.split()[2] for line in script.installed]
    done = script("undeploy", "dev", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "smollm2" not in done.stdout, "it is not a release of dev"
    assert script("undeploy", "kind").returncode == 0
    removed = [line.split()[1] for line in script.installed if line.startswith("uninstall")]
    assert removed == installed[::-1]


def test_removal_takes_the_pods_of_failed_helm_tests_along(script: Script, cluster: FakeKubernetes) -> None:
    cluster.add("pods", "edge-gateway-test", "llm", labels={"app.kubernetes.io/instance": "edge-test"})
    assert script("deploy", "kind").returncode == 0
    assert script("undeploy", "kind").returncode == 0
    assert "DELETE pods/edge-gateway-test" in cluster.changes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("staging",), '"staging" is no environment (known: dev, kind, prod, sim)'),
        (("dev", "-f", "/no/such.yaml"), "/no/such.yaml: no such file"),
        (("dev", "--timeout", "soon"), '--timeout "soon" is not a duration'),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str, script: Script) -> None:
    done = script("deploy", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_cannot_be_reached_is_one_sentence(script: Script, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "kubeconfig").read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
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
