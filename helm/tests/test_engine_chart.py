"""The engines of the chart inference-backend: nodes, probes, updates, models, KEDA."""

import json
import subprocess
from pathlib import Path

import promql_parser
import pytest

from harness.kubernetes.charts import CONTRACT, ENGINE, HELM, ROOT, engine_of, name_of, with_crds
from harness.servers.router_fleet import BIN

pytestmark = pytest.mark.programs


def tolerated(tolerations: list[dict[str, str]], taint: dict[str, str]) -> bool:
    """Return whether Kubernetes would place a pod with ``tolerations`` on a node with ``taint``."""
    return any(
        one.get("key", taint["key"]) == taint["key"]
        and one.get("effect", taint["effect"]) == taint["effect"]
        and (one.get("operator") == "Exists" or one.get("value", "") == taint["value"])
        for one in tolerations
    )


@pytest.mark.parametrize(
    ("resource", "taint"),
    [
        ("nvidia.com/gpu", "nvidia.com/gpu"),
        ("nvidia.com/mig-1g.10gb", "nvidia.com/gpu"),
        ("nvidia.com/gpu.shared", "nvidia.com/gpu"),
        ("amd.com/gpu", "amd.com/gpu"),
    ],
)
@pytest.mark.parametrize("value", ["present", "true", ""])
def test_an_engine_tolerates_the_taint_of_its_gpus_nodes(resource: str, taint: str, value: str) -> None:
    spec, parts, _ = engine_of(HELM / ENGINE / "examples/mistral-7b.yaml", gpuResource=json.dumps(resource))
    assert parts["engine"]["resources"]["limits"][resource] == 1
    assert tolerated(spec["tolerations"], {"key": taint, "value": value, "effect": "NoSchedule"})
    assert not tolerated(spec["tolerations"], {"key": "other", "value": value, "effect": "NoSchedule"})


@pytest.mark.parametrize("name", ["mistral-7b", "own-cache"])
def test_an_engine_fits_the_nodes_that_terraform_makes(name: str) -> None:
    spec, parts, documents = engine_of(HELM / ENGINE / f"examples/{name}.yaml")
    gpu = CONTRACT["pools"]["gpu"]
    assert spec["nodeSelector"].items() <= gpu["labels"].items()
    (taint,) = gpu["taints"]
    assert tolerated(spec["tolerations"], taint)
    command = parts["engine"]["command"]
    parallel = (
        command[command.index("--tensor-parallel-size") + 1] if "--tensor-parallel-size" in command else "1"
    )
    for kind in ("requests", "limits"):
        assert str(parts["engine"]["resources"][kind][CONTRACT["gpu_resource"]]) == parallel
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    key, _, value = CONTRACT["engine_selector"].partition("=")
    assert deployment["metadata"]["labels"][key] == value, "night-off scales by this"


def test_an_engine_is_probed_through_its_agent_with_time_for_the_model_and_for_the_agent() -> None:
    spec, parts, _ = engine_of(HELM / ENGINE / "examples/mistral-7b.yaml")
    engine, agent = parts["engine"], parts["agent"]
    assert agent["restartPolicy"] == "Always", "a native sidecar"
    assert "livenessProbe" not in agent, "it would restart the agent for what is wrong with the engine"
    for kind in ("startup", "readiness", "liveness"):
        assert engine[f"{kind}Probe"]["httpGet"]["port"] == 8001

    def budget(kind: str) -> int:
        probe = engine[f"{kind}Probe"]
        return int(probe["periodSeconds"] * probe["failureThreshold"])

    assert budget("startup") >= 1800
    assert budget("readiness") < 60 < budget("liveness"), "an agent may be away for a minute"
    assert engine["livenessProbe"]["httpGet"]["path"] == "/livez"
    drain = engine["lifecycle"]["preStop"]["exec"]["command"]
    (limit,) = (int(word.partition("=")[2]) for word in drain if word.startswith("--limit-seconds"))
    command = engine["command"]
    shutdown = int(command[command.index("--shutdown-timeout") + 1])
    assert spec["terminationGracePeriodSeconds"] > limit + shutdown
    assert {"name": "shm", "mountPath": "/dev/shm"} in engine["volumeMounts"]


def test_an_update_needs_a_spare_gpu_only_when_it_is_told_so() -> None:
    for name, surge in (("mistral-7b", 0), ("own-cache", 1)):
        _, _, documents = engine_of(HELM / ENGINE / f"examples/{name}.yaml")
        (deployment,) = (document for document in documents if document["kind"] == "Deployment")
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {
            "maxSurge": surge,
            "maxUnavailable": 1 - surge,
        }


def test_a_model_file_of_ones_own_is_rendered_by_the_same_renderer(tmp_path: Path) -> None:
    own = (ROOT / "services/inference-backend/models/mistral-7b-instruct-v0.2-awq.yaml").read_text()
    (tmp_path / "m.yaml").write_text(
        own.replace("name: mistral-7b-instruct-v0.2-awq", "name: own").replace("gpus: 1", "gpus: 2")
    )
    words = [
        "--model-file",
        tmp_path / "m.yaml",
        "--model-path",
        "/models/own",
        "--host",
        "0.0.0.0",
        "--port",
        "8000",
    ]
    done = subprocess.run(
        [BIN / "backend-agent", "engine-command", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    _, parts, _ = engine_of(rendered=done.stdout, weights__source='"s3://models/own"')
    assert parts["engine"]["resources"]["limits"]["nvidia.com/gpu"] == 2
    command = parts["engine"]["command"]
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert command[command.index("--model") + 1] == "/models/own"
    assert parts["weights"]["args"][-1] == "own"


def test_keda_scales_engines_by_what_waits_and_never_by_utilisation() -> None:
    documents = with_crds(ENGINE, "mistral-7b.yaml", 'keda={"enabled": true}')
    (scaled,) = (document for document in documents if document["kind"] == "ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert any("num_requests_waiting" in query for query in queries)
    assert any("request_queue_time_seconds" in query for query in queries)
    assert not any("UTIL" in query or "utilization" in query for query in queries)
    (deployment,) = (document for document in documents if document["kind"] == "Deployment")
    assert "replicas" not in deployment["spec"], "KEDA owns the number"
    for query in queries:
        promql_parser.parse(query)


def test_from_zero_held_requests_start_an_engine_and_running_ones_keep_it() -> None:
    values = 'keda={"enabled": true, "minReplicas": 0, "routerPool": "general"}'
    documents = with_crds(ENGINE, "mistral-7b.yaml", values)
    (scaled,) = (document for document in documents if document["kind"] == "ScaledObject")
    assert scaled["spec"]["minReplicaCount"] == 0
    thresholds = {
        trigger["metadata"]["query"]: trigger["metadata"]["threshold"]
        for trigger in scaled["spec"]["triggers"]
    }
    assert thresholds['sum(router_held_requests{pool="general"})'] == "64"
    (running,) = (query for query in thresholds if "num_requests_running" in query)
    assert thresholds[running] == "1000000", "it activates and never scales"
    for query in thresholds:
        promql_parser.parse(query)


def test_models_in_the_chart_are_those_of_the_agents_renderer() -> None:
    for model in (ROOT / "services/inference-backend/models").glob("*.yaml"):
        done = subprocess.run(
            [
                BIN / "backend-agent", "engine-command", "--model-file", model,
                "--model-path", f"/models/{model.stem}", "--host", "0.0.0.0", "--port", "8000",
            ],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        copy = HELM / ENGINE / "files/models" / f"{model.stem}.json"
        assert copy.read_text() == done.stdout, f"{name_of(copy)}: make generate"
