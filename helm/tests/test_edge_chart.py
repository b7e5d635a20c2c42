"""The edge's chart: Envoy validates each of its configurations, and a pod with TLS runs from its manifest."""

import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml

from edge_gateway import launch
from edge_gateway.render import render
from edge_gateway.settings import Settings
from harness.kubernetes.tools import tool
from harness.waiting import eventually
from platform_tools.references.edge_variants import CHOICES, MOUNTED_AT, ROUTES, chart_files, merge, variants
from podrunner.cluster import Cluster, cluster
from podrunner.platform_images import images_of

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "edge-gateway"
NAME = "llm.example.com"
BUDGETS, TLS = "budgets.enabled=true", "tls.enabled=true"
DIGESTS = {"tester": ["0" * 64]}


def rendered(*sets: str) -> list[dict[str, Any]]:
    """Return the chart's manifests, in the namespace llm."""
    words = [
        word for one in ("routesSecret=edge-routes", "tls.secret=edge-tls", *sets) for word in ("--set", one)
    ]
    done = subprocess.run(
        [tool("helm"), "template", "edge", CHART, "-n", "llm", *words],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one]
    for one in found:
        one["metadata"].setdefault("namespace", "llm")
    return found


def mounted(*sets: str) -> dict[str, str]:
    """Return the files of the ConfigMap."""
    (config,) = (one for one in rendered(*sets) if one["kind"] == "ConfigMap")
    return dict(config["data"])


def test_an_edge_outlives_its_deregistration_and_waits_for_its_target() -> None:
    """A load balancer sends new connections to a target until its deregistration delay is over."""
    documents = rendered()
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    (service,) = (
        one for one in documents if one["kind"] == "Service" and one["spec"].get("type") == "LoadBalancer"
    )
    annotations = service["metadata"]["annotations"]
    attributes = annotations["service.beta.kubernetes.io/aws-load-balancer-target-group-attributes"]
    (delay,) = re.findall(r"deregistration_delay\.timeout_seconds=(\d+)", attributes)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    assert int(hook[hook.index("--settle-seconds") + 1]) > int(delay)
    assert deployment["spec"]["minReadySeconds"] > 0
    namespaces = yaml.safe_load((ROOT / "helm" / "releases.yaml").read_text())["namespaces"]
    assert namespaces["llm"]["labels"]["elbv2.k8s.aws/pod-readiness-gate-inject"] == "enabled"


def test_the_charts_files_are_what_the_renderer_gives() -> None:
    wanted = chart_files()
    assert {path.name for path in (CHART / "files").iterdir()} == set(wanted)
    for name, text in wanted.items():
        assert (CHART / "files" / name).read_text() == text, f"{name}: make generate"


@pytest.mark.parametrize("choices", variants(), ids=lambda choices: "-".join(sorted(choices)) or "none")
def test_the_chart_mounts_what_the_renderer_gives_for_each_choice(choices: frozenset[str]) -> None:
    files = mounted(*(f"{name}.enabled=true" for name in choices))
    assert set(files) == set(variants()[choices])
    for name, text in variants()[choices].items():
        heap = re.compile("max_heap_size_bytes: [0-9]+")  # The chart derives it from the memory limit.
        # Compare parsed YAML, because the chart quotes the inserted address.
        assert yaml.safe_load(heap.sub("", files[name])) == yaml.safe_load(heap.sub("", text))


def test_choices_that_meet_in_a_line_are_refused() -> None:
    assert merge("a\nb\nc\n", {"tls": "a\nB\nc\n", "budgets": "a\nb\n"}) == (
        "a\n{{- if .Values.tls.enabled }}\nB\n{{- else }}\nb\n{{- end }}\n"
        "{{- if not .Values.budgets.enabled }}\nc\n{{- end }}\n"
    )
    with pytest.raises(ValueError, match="which another choice changes too"):
        merge("a\nb\nc\n", {"tls": "a\nB\nc\n", "budgets": "a\nx\nc\n"})
    with pytest.raises(ValueError, match="Helm would evaluate"):
        merge("a\n", {"tls": "{{ a }}\n"})


@pytest.mark.parametrize("sets", [(), (BUDGETS,), (TLS,), (TLS, BUDGETS, "budgets.whenUnavailable=refuse")])
def test_envoy_accepts_every_configuration_of_the_chart(sets: tuple[str, ...], tmp_path: Path) -> None:
    """Use the files of the ConfigMap and a route table Secret made as in docs/deploying.md."""
    files = mounted(*sets)
    assert ("edge_certificate.yaml" in files) == (TLS in sets)
    issued = trustme.CA().issue_cert(NAME)
    issued.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    for name, text in files.items():
        text = text.replace("/etc/edge-tls/", f"{tmp_path}/").replace(f"{MOUNTED_AT}/", f"{tmp_path}/")
        (tmp_path / name).write_text(text)
    (tmp_path / "routes.yaml").write_text(
        render(Settings(), DIGESTS, MOUNTED_AT, ROUTES).files["routes.yaml"]
    )
    launch.validate(tmp_path)
    (tmp_path / "envoy.yaml").write_text(
        (tmp_path / "envoy.yaml").read_text().replace("stat_prefix: edge\n", "x: 1\n")
    )
    with pytest.raises(launch.BadSettings):
        launch.validate(tmp_path)


def test_what_happens_without_budgets_is_one_line_of_the_configuration() -> None:
    admit, refuse = (
        mounted(BUDGETS, f"budgets.whenUnavailable={one}")["envoy.yaml"] for one in ("admit", "refuse")
    )
    differing = [
        pair for pair in zip(admit.splitlines(), refuse.splitlines(), strict=True) if pair[0] != pair[1]
    ]
    assert [(one.strip(), two.strip()) for one, two in differing] == [
        ("failure_mode_deny: false", "failure_mode_deny: true")
    ]


@pytest.mark.parametrize("budgets", [True, False])
def test_a_configuration_of_ones_own_is_mounted_as_it_is(budgets: bool, tmp_path: Path) -> None:
    settings = Settings.model_validate({"trusted_proxies": 1, **(CHOICES["budgets"] if budgets else {})})
    own = render(settings, DIGESTS, MOUNTED_AT, ROUTES).files["envoy.yaml"]
    (tmp_path / "envoy.yaml").write_text(own)
    said = f"budgets.enabled={str(budgets).lower()}"
    done = subprocess.run(
        [tool("helm"), "template", "edge", CHART, "--set", f"routesSecret=edge-routes,{said}",
         "--set-file", f"envoy={tmp_path / 'envoy.yaml'}"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (config,) = (
        one for one in yaml.load_all(done.stdout, yaml.CSafeLoader) if one and one["kind"] == "ConfigMap"
    )
    assert yaml.safe_load(config["data"]["envoy.yaml"]) == yaml.safe_load(own)


def certificate(authority: trustme.CA) -> dict[str, str]:
    """Return the Secret's files of a new certificate."""
    issued = authority.issue_cert(NAME)
    return {
        "tls.crt": "".join(one.bytes().decode() for one in issued.cert_chain_pems),
        "tls.key": issued.private_key_pem.bytes().decode(),
    }


def routes(folder: Path) -> str:
    (folder / "keys.yaml").write_text(yaml.safe_dump({"clients": {"tester": ["sk-" + "a" * 40]}}))
    (folder / "keys.yaml").chmod(0o600)
    command = [Path(sys.executable).parent / "edge-gateway", "routes", "--keys-file", folder / "keys.yaml",
               "--settings", ROOT / "services/edge-gateway/envoy/cluster.yaml", "--out", folder / "r.yaml"]  # fmt: skip
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return (folder / "r.yaml").read_text()


def served(kube: Cluster, context: ssl.SSLContext) -> httpx.Response:
    """Request the health path from the Service as a client, by the certificate's name."""
    url = f"https://{kube.address('llm', 'edge-gateway')}/healthz"
    asker = kube.client("laptop", "default")

    def ask() -> httpx.Response:
        with httpx.Client(verify=context, timeout=10) as client:
            return client.get(url, headers={"host": NAME}, extensions={"sni_hostname": NAME})

    return asker.call(ask)


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.usefixtures("built_images")
def test_a_pod_with_tls_serves_its_certificate_takes_a_renewed_one_and_refuses_plain_http(
    tmp_path: Path,
) -> None:
    tmp_path.chmod(0o755)
    documents = rendered(TLS, "replicas=1", "pdb.enabled=false")
    images = images_of()
    first, second = trustme.CA(), trustme.CA()
    with cluster(tmp_path / "pods", images) as kube:
        kube.secret("llm", "edge-tls", **certificate(first))
        kube.secret("llm", "edge-routes", **{"routes.yaml": routes(tmp_path)})
        (pod,) = kube.apply(*documents)
        kube.wait_ready([pod], 120)
        assert served(kube, trusting(first)).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            served(kube, trusting(second))
        plain = f"http://{kube.address('llm', 'edge-gateway')}:443/healthz"
        asker = kube.client("laptop", "default")
        with pytest.raises(httpx.HTTPError):
            asker.call(lambda: httpx.get(plain, timeout=10))
        edge = pod.mains[0].pid
        kube.secret("llm", "edge-tls", **certificate(second))

        def renewed() -> bool:
            try:
                return served(kube, trusting(second)).status_code == 200
            except httpx.ConnectError:
                return False

        eventually(renewed, "the renewed certificate is served", 60)
        assert pod.mains[0].pid == edge
        (test,) = (one for one in documents if one["kind"] == "Pod")
        status, said = kube.run_pod("llm", test)
        assert status == 0, said
        pod.terminate()
        assert pod.ended.wait(120)
        assert kube.events() == []
