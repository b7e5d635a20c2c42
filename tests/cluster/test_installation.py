"""One command installs the platform on a fresh cluster; every pod is restricted, and every `helm test` passes."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import yaml

from cluster.kubectl import Kubectl, run
from cluster.platform import NAMESPACES, ROOT, Platform, namespaces

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_deploy_ends_with_an_answer(platform: Platform) -> None:
    print(platform.printed)
    assert re.search(r"^answered.*: simulated-chat on simulated-", platform.printed, re.MULTILINE)


@pytest.mark.parametrize("stream", [False, True])
def test_the_edge_answers_and_the_router_explains(platform: Platform, stream: bool) -> None:
    with platform.edge() as client:
        answer = platform.ask(client, stream)
    assert answer.status_code == 200, answer.text
    if stream:
        assert answer.text.rstrip().endswith("data: [DONE]")
    else:
        assert answer.json()["usage"]["completion_tokens"] == 8
    record = platform.explain(answer.headers["x-request-id"])
    assert (record["outcome"], record["chosen"]) == ("ok", answer.headers["x-route-backend"])
    assert record["client_id"] == "suite"


def test_nobody_is_let_in_without_a_key(platform: Platform) -> None:
    with platform.edge() as client:
        answer = client.get("/v1/models", headers={"authorization": "Bearer sk-nobody"})
    assert answer.status_code == 401


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_pod_is_restricted(platform: Platform, kubectl: Kubectl, namespace: str) -> None:
    """The API server itself lists the pods that a stricter namespace label would refuse."""
    del platform
    done = subprocess.run(
        [kubectl.program, "label", "--dry-run=server", "--overwrite", "namespace", namespace,
         "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/enforce-version=latest"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "Warning" not in done.stderr, done.stderr


def test_helm_test_passes_and_takes_its_pods_away(platform: Platform, kubectl: Kubectl) -> None:
    def tested(release: dict[str, str]) -> str:
        done = subprocess.run(
            [platform.helm, "test", release["name"], "-n", release["namespace"], "--timeout", "90s", "--logs"],
            capture_output=True, text=True, check=False, timeout=150,
        )  # fmt: skip
        return done.stdout[-800:] + done.stderr[-800:] if done.returncode else ""

    names = [release["name"] for release in platform.releases()]
    with ThreadPoolExecutor(len(names)) as pool:
        failed = {
            name: why for name, why in zip(names, pool.map(tested, platform.releases()), strict=True) if why
        }
    assert not failed, json.dumps(failed, indent=1)
    left = [
        pod["metadata"]["name"]
        for namespace in NAMESPACES
        for pod in kubectl.get("pods", "-n", namespace)
        if "helm.sh/hook" in pod["metadata"].get("annotations", {})
    ]
    assert left == []


@dataclass
class DryRun:
    """The API server's response for one release; ``passed_over`` are objects of APIs that it does not serve."""

    count: int = 0
    passed_over: list[str] = field(default_factory=list)
    refusal: str = ""


def dry_run(
    platform: Platform, environment: str, release: dict[str, str], moved: dict[str, str], groups: set[str]
) -> DryRun:
    """Render a release of an environment and apply it without effect, in the namespaces of ``moved``."""
    own = ROOT / "helm" / "environments" / environment / f"{release['name']}.yaml"
    handed_over = {
        "global": {"region": "eu-central-1", "buckets": {"models": "m", "logs": "l", "traces": "t"}}
    }
    text = run(
        platform.helm, "template", release["name"], ROOT / "helm" / release["chart"], "-n", release["namespace"],
        *(["-f", own] if own.exists() else []), "-f", "-", "--api-versions=keda.sh/v1alpha1",
        "--api-versions=monitoring.coreos.com/v1", "--api-versions=cert-manager.io/v1",
        text=yaml.safe_dump(handed_over),
    )  # fmt: skip
    found, documents = DryRun(), []
    for one in filter(None, yaml.safe_load_all(text)):
        if one["apiVersion"] not in groups:
            found.passed_over.append(
                f"{one['kind']} {one['metadata']['name']} ({one['apiVersion']} is not served here)"
            )
            continue
        own_namespace = one["metadata"].get("namespace", release["namespace"])
        one["metadata"]["namespace"] = moved.get(own_namespace, own_namespace)
        documents.append(one)
    found.count = len(documents)
    if not documents:
        return found
    done = subprocess.run(
        [platform.kubectl.program, "apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"],
        input=yaml.safe_dump_all(documents), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode or "Warning" in done.stderr:
        found.refusal = f"{release['name']}: {done.stderr.strip()}"
    return found


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_the_api_server_takes_every_object_of_an_environment(
    platform: Platform, kubectl: Kubectl, environment: str
) -> None:
    """Server-side dry runs: defaults, validation and admission of the real API server.

    They use separate namespaces with the same labels, because the running platform has objects of the same
    names.
    """
    moved = {name: f"suite-{environment}-{name}" for name in namespaces()}
    for name, labels in namespaces().items():
        platform.namespace_with(moved[name], labels)
    groups = set(kubectl("api-versions").split())
    releases = [
        one
        for one in yaml.safe_load((ROOT / "helm" / "releases.yaml").read_text())["releases"]
        if environment in one.get("environments", [environment])
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: dry_run(platform, environment, one, moved, groups), releases))
    kubectl("delete", "namespace", *moved.values(), "--wait=false")
    passed_over = [text for one in found for text in one.passed_over]
    print(f"\n{environment}: {sum(one.count for one in found)} objects; passed over: {passed_over or 'none'}")
    refused = [one.refusal for one in found if one.refusal]
    assert not refused, "\n".join(refused)
