"""Two releases of one chart in one namespace: the second one differs by its name and `fullnameOverride`.

Both releases have the same values, so every name that a chart does not derive from `fullnameOverride` is found.
"""

import functools
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from harness.kubernetes.chart_fields import CHARTS, HELM, UMBRELLA, merged, read
from harness.kubernetes.tools import tool
from podrunner.network import selects

pytestmark = pytest.mark.programs

Document = Mapping[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
CLUSTER_SCOPED = (
    "ClusterRole",
    "ClusterRoleBinding",
    "Namespace",
    "PriorityClass",
    "CustomResourceDefinition",
)
SCALE = {"autoscaling": {"enabled": True}, "serviceMonitor": {"enabled": True}}
KEDA = {"keda": {"enabled": True}, "serviceMonitor": {"enabled": True}}
MONITORED = {"serviceMonitor": {"enabled": True}}
ENTRANCE = {
    "ingress": {"enabled": True, "hosts": [{"host": "llm.example"}]},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
}
# For each chart, values that render every kind of object, on top of the required values in options/.
FULL: Mapping[str, list[Mapping[str, Any]]] = {
    "console": [ENTRANCE],
    "edge-gateway": [
        SCALE,
        {
            "settings": {"trusted_proxies": 1},
            **ENTRANCE,
            "tls": {
                "enabled": True,
                "secret": "edge-tls",
                "certManager": {"enabled": True, "issuer": {"name": "ca"}, "dnsNames": ["llm.example"]},
            },
        },
    ],
    "inference-backend": [{**MONITORED, "podMonitor": {"enabled": True}}, KEDA, {"backend": ""}],
    "llm-alloy": [MONITORED],
    "llm-dcgm-exporter": [MONITORED],
    "llm-grafana": [{**MONITORED, **ENTRANCE, "persistence": {"enabled": True}}],
    "llm-loki": [MONITORED],
    "llm-prometheus": [{**MONITORED, "clusterMetrics": {"enabled": True}}],
    "llm-redis": [{**MONITORED, "persistence": {"enabled": True}}],
    "llm-tempo": [MONITORED],
    "observability": [{"prometheusRule": {"enabled": True}, "podMonitors": {"enabled": True}}],
    "rate-limit-service": [SCALE],
    "router-service": [SCALE, {**KEDA, "rollout": {"enabled": True}}],
}
# Values that the second release must change too, and a part of the comment in values.yaml that states this.
ALSO_DIFFERENT: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "edge-gateway": ({"tls": {"secret": "other-tls"}}, "A second release needs a different Secret"),
}
# What two releases share outside their objects, and the comment in values.yaml that states what to do.
SHARED_OUTSIDE = {
    "edge-gateway": "A second release needs different hosts",
    "llm-alloy": "Two releases need different namespaces",
    "llm-dcgm-exporter": "Install one release per node",
    UMBRELLA: "One release per cluster",
    "llm-loki": "Two releases need different buckets",
    "llm-tempo": "Two releases need different buckets",
    "observability": "A second release for the same Prometheus",
    "rate-limit-service": "Two releases with different limits need different databases",
    "router-service": "Two releases with different pools need different databases",
}
# It has no pods; its PodMonitors find the pods of all releases by their port names.
WITHOUT_PODS = "observability"
# Kinds that a template of _names.tpl renders.
SHARED_TEMPLATES = {"serviceMonitor": "ServiceMonitor", "autoscaler": "HorizontalPodAutoscaler"}
CASES = [(chart, number) for chart in CHARTS for number in range(-1, len(FULL[chart]))]


@functools.cache
def rendered(chart: str, number: int, release: str, other: bool) -> list[Document]:
    """Return the objects of a release. Number -1 has only the required values."""
    base = read(HELM / "tests/options" / f"{chart}.yaml").get("base", {})
    values = merged(base, FULL[chart][number] if number >= 0 else {})
    words = ["--set", "fullnameOverride=other"] if other else []
    if other and number >= 0 and chart in ALSO_DIFFERENT:
        values = merged(values, ALSO_DIFFERENT[chart][0])
    done = subprocess.run(
        [tool("helm"), "template", release, HELM / chart, "-n", "x", "-f", "-", *words],
        input=yaml.safe_dump(values), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]


def pair(chart: str, number: int) -> tuple[list[Document], list[Document]]:
    return rendered(chart, number, "a", other=False), rendered(chart, number, "b", other=True)


def identity(document: Document) -> tuple[str, str, str]:
    facts = document["metadata"]
    namespace = "" if document["kind"] in CLUSTER_SCOPED else facts.get("namespace", "x")
    return document["kind"], namespace, facts["name"]


def identities(documents: list[Document]) -> Iterator[tuple[str, str, str]]:
    """Yield every object of a release, including those that a controller makes for it."""
    for document in documents:
        yield identity(document)
        spec = document.get("spec", {})
        if document["kind"] == "Certificate":
            yield "Secret", document["metadata"]["namespace"], spec["secretName"]
        for claim in spec.get("volumeClaimTemplates", []):
            yield "PersistentVolumeClaim", "x", f"{claim['metadata']['name']}-{document['metadata']['name']}"


def pods(documents: list[Document]) -> Iterator[tuple[str, Mapping[str, str], Document]]:
    """Yield the name, labels and spec of every pod, including those of `helm test`."""
    for document in documents:
        pod = document["spec"]["template"] if document["kind"] in WORKLOADS else document
        if document["kind"] in (*WORKLOADS, "Pod"):
            yield document["metadata"]["name"], pod["metadata"]["labels"], pod["spec"]


def selectors(document: Document) -> Iterator[tuple[str, Document]]:
    """Yield the kind of object that a selector of the document picks (Pod or Service), and the selector."""
    spec, kind = document.get("spec", {}), document["kind"]
    if kind == "Service":
        yield "Pod", {"matchLabels": spec["selector"]}
    elif kind in (*WORKLOADS, "PodDisruptionBudget", "PodMonitor"):
        yield "Pod", spec["selector"]
    elif kind == "ServiceMonitor":
        yield "Service", spec["selector"]
    elif kind == "NetworkPolicy":
        yield "Pod", spec["podSelector"]
    if kind in WORKLOADS:
        for constraint in spec["template"]["spec"].get("topologySpreadConstraints", []):
            yield "Pod", constraint["labelSelector"]


@pytest.mark.parametrize(("chart", "number"), CASES)
def test_no_object_belongs_to_both_releases(chart: str, number: int) -> None:
    first, second = (list(identities(documents)) for documents in pair(chart, number))
    assert len(first) == len(set(first))
    assert len(first) == len(second)
    assert set(first) & set(second) == set()


@pytest.mark.parametrize(("chart", "number"), [case for case in CASES if case[0] != WITHOUT_PODS])
def test_no_selector_finds_the_other_release(chart: str, number: int) -> None:
    for own, other in (pair(chart, number), pair(chart, number)[::-1]):
        strangers = {
            "Pod": [labels for _, labels, _ in pods(other)],
            "Service": [one["metadata"].get("labels", {}) for one in other if one["kind"] == "Service"],
        }
        for document in own:
            for kind, selector in selectors(document):
                found = [labels for labels in strangers[kind] if selects(selector, labels)]
                assert found == [], identity(document)


@pytest.mark.parametrize(("chart", "number"), CASES)
def test_references_name_objects_of_their_release(chart: str, number: int) -> None:
    for documents in pair(chart, number):
        names = {(kind, name) for kind, _, name in map(identity, documents)}
        references = [one for document in documents for one in _references(document)]
        assert [one for one in references if one not in names] == []


def _references(document: Document) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each object of the same release that a document names."""
    spec, kind = document.get("spec", {}), document["kind"]
    if target := spec.get("scaleTargetRef"):
        yield target.get("kind", "Deployment"), target["name"]
    if kind == "StatefulSet":
        yield "Service", spec["serviceName"]
    for reference in [*document.get("subjects", []), *filter(None, [document.get("roleRef")])]:
        yield reference["kind"], reference["name"]
    if account := spec.get("template", {}).get("spec", {}).get("serviceAccountName"):
        yield "ServiceAccount", account
    for rule in spec.get("rules", []):
        paths = rule.get("http", {}).get("paths", [])
        for backend in [*(path["backend"]["service"] for path in paths), *rule.get("backendRefs", [])]:
            yield "Service", backend["name"]


@pytest.mark.parametrize(("chart", "number"), CASES)
def test_the_second_release_uses_nothing_of_the_first(chart: str, number: int) -> None:
    """Prometheus of the second release would otherwise notify the first one's Alertmanager."""
    first, second = pair(chart, number)
    mounts = {name for kind, _, name in identities(first) if kind in ("ConfigMap", "PersistentVolumeClaim")}
    services = [re.escape(name) for kind, _, name in identities(first) if kind == "Service"]
    address = re.compile(rf"(?<![\w./-])({'|'.join(services)})(:\d|\.(x|llm|observability)\b)")
    for _, _, spec in pods(second):
        for volume in spec.get("volumes", []):
            mounted = volume.get("configMap", {}).get("name")
            claimed = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert not {mounted, claimed} & mounts
    for document in second if services else []:
        found = address.search(yaml.safe_dump(dict(document), width=1000))
        assert found is None, f"{identity(document)}: {found}"


def test_keda_counts_only_the_pods_of_its_backend() -> None:
    """A prefix of the pods' names would also match a second backend whose name continues the first one's."""
    scaled = next(
        one for one in rendered("inference-backend", 1, "a", other=False) if one["kind"] == "ScaledObject"
    )
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    patterns = {found for query in queries for found in re.findall(r'backend=~"([^"]*)"', query)}
    assert len(patterns) == 1
    (pattern,) = patterns
    assert re.fullmatch(pattern, "engine-6d4cf56db6-x8k2p")
    assert re.fullmatch(pattern, "engine-6d4cf56dbx8k2p"), "Kubernetes joins both parts after a long name"
    assert not re.fullmatch(pattern, "engine-large-6d4cf56db6-x8k2p")


@pytest.mark.parametrize("chart", CHARTS)
def test_the_cases_render_every_kind_of_a_chart(chart: str) -> None:
    """A new template must not escape these tests because no case enables it."""
    paths = [path for path in (HELM / chart / "templates").iterdir() if path.name != "_names.tpl"]
    text = "".join(path.read_text() for path in paths)
    wanted = set(re.findall(r"(?m)^kind: (\w+)", text))
    wanted |= {kind for part, kind in SHARED_TEMPLATES.items() if f'include "{chart}.{part}"' in text}
    found = {one["kind"] for case in CASES if case[0] == chart for one in pair(*case)[0]}
    assert wanted <= found


@pytest.mark.parametrize("chart", [*CHARTS, UMBRELLA])
def test_values_name_what_two_releases_must_not_share(chart: str) -> None:
    comments = " ".join(re.findall(r"# ?(.*)", (HELM / chart / "values.yaml").read_text()))
    sentences = [SHARED_OUTSIDE.get(chart, ""), ALSO_DIFFERENT.get(chart, ({}, ""))[1]]
    assert [sentence for sentence in sentences if sentence not in comments] == []


@pytest.mark.parametrize("chart", [chart for chart in CHARTS if chart != WITHOUT_PODS])
def test_a_policy_admits_the_test_pod_under_another_name(chart: str) -> None:
    """`nameOverride` renames the test pod; a policy with a fixed name would block `helm test`."""
    base = read(HELM / "tests/options" / f"{chart}.yaml").get("base", {})
    done = subprocess.run(
        [tool("helm"), "template", "a", HELM / chart, "-n", "x", "-f", "-", "--set", "nameOverride=renamed"],
        input=yaml.safe_dump(base), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    policies = [part for part in done.stdout.split("\n---") if "kind: NetworkPolicy" in part]
    assert [one for one in policies if f"{chart.removeprefix('llm-')}-test" in one] == []
