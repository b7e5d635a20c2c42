"""The whole platform from its rendered manifests: commands, configuration, users, probes, stop hooks and policies.

Every pod of the `kind` environment has its own network, mount and process namespaces (tests/podrunner);
the engine's vLLM is the simulator here, and the real one in tests/e2e.
"""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from harness.kubernetes.platform_manifests import TRIAL_KEY, rendered, routes, runnable, scraped
from harness.waiting import eventually
from platform_contracts.prometheus import Prometheus
from podrunner.cluster import Cluster, cluster
from podrunner.platform_images import images_of
from podrunner.pod import Pod

pytestmark = [pytest.mark.service, pytest.mark.untimed, pytest.mark.timeout(900)]

MODEL = "smollm2-135m-instruct"
FIRST_KEY = "sk-" + "a" * 40


class Platform:
    """The running pods by the name of their workload, and a client of the edge."""

    def __init__(self, kube: Cluster, documents: list[dict[str, Any]], folder: Path) -> None:
        self.kube = kube
        self.documents = documents
        self.folder = folder
        self.key = FIRST_KEY
        self.outside = kube.client("laptop", "default")
        self.edge = f"http://{kube.address('llm', 'edge-gateway')}"

    def pod(self, workload: str) -> Pod:
        (found,) = (pod for pod in self.kube.pods if pod.name == f"{workload}-0")
        return found

    def ask(self, path: str = "/v1/chat/completions", key: str | None = None, **body: Any) -> httpx.Response:
        """Send one request from outside the cluster's namespaces to the edge's Service."""
        message = [{"role": "user", "content": "Hi"}]
        sent = {"model": MODEL, "messages": message, "max_tokens": 5, **body}
        headers = {"authorization": f"Bearer {key or self.key}"}
        return self.outside.call(
            lambda: (
                httpx.get(self.edge + path, headers=headers, timeout=20)
                if path.endswith("models")
                else httpx.post(self.edge + path, json=sent, headers=headers, timeout=20)
            )
        )

    def reaches(self, name: str, namespace: str, ip: str, port: int) -> bool:
        """Return whether a client pod gets a connection."""
        client = self.kube.client(name, namespace)

        def connect() -> bool:
            try:
                socket.create_connection((ip, port), 3.0).close()
            except OSError:
                return False
            return True

        return client.call(connect)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, built_images: None) -> Iterator[Platform]:
    """Every pod of `kind` that has an image here, ready."""
    folder = tmp_path_factory.mktemp("platform")
    folder.chmod(0o755)
    weights = folder / "weights"
    (weights / "source").mkdir(parents=True)
    (weights / "source" / "config.json").write_text("{}")
    for path in (weights, weights / "source"):
        path.chmod(0o777)
    documents = [one for one in rendered("kind", weights) if runnable(one)]
    images = images_of()
    for one in documents:  # built before any pod has to be ready in time
        if one["kind"] in ("Deployment", "StatefulSet"):
            spec = one["spec"]["template"]["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                images(container["image"])
    with cluster(folder / "pods", images) as kube:
        kube.secret("llm", "redis", password="a long password")
        kube.secret("llm", "edge-routes", **{"routes.yaml": routes(folder, FIRST_KEY)})
        ours = [one for one in documents if one["metadata"]["namespace"] == "llm"]
        theirs = [one for one in documents if one["metadata"]["namespace"] != "llm"]
        later = [one for one in theirs if one["kind"] in ("Deployment", "StatefulSet")]
        kube.apply(*(one for one in theirs if one not in later))
        pods = kube.apply(*ours)
        kube.wait_ready(pods, 120)
        prometheus = kube.objects["observability"]["ConfigMap", "prometheus"]
        prometheus["data"]["prometheus.yml"] = scraped(prometheus["data"]["prometheus.yml"], kube)
        kube.wait_ready(kube.apply(*later), 120)
        yield Platform(kube, documents, folder)


def test_a_chat_completion_comes_through_all_pods(platform: Platform) -> None:
    answer = platform.ask()
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
    assert answer.headers["x-route-backend"] == platform.pod("smollm2").name
    assert platform.ask("/v1/models").json()["data"][0]["id"] == MODEL
    assert platform.ask(key="sk-wrong").status_code == 401
    assert platform.kube.events() == []
    assert platform.kube.api.refused == [], "the router's Role is enough"


def test_a_test_pod_of_every_chart_passes(platform: Platform) -> None:
    hooks = [
        one
        for one in platform.documents
        if one["kind"] == "Pod" and "helm.sh/hook" in one["metadata"].get("annotations", {})
    ]
    asked = {}
    for one in hooks:
        if one["metadata"]["name"].startswith("grafana"):
            continue  # NOT_RUNNABLE: no pod would answer
        asked[one["metadata"]["name"]] = platform.kube.run_pod(one["metadata"]["namespace"], one)
    assert asked.keys() == {
        f"{name}-test"
        for name in ("router-service", "smollm2", "redis", "edge-gateway", "rate-limit-service", "prometheus")
    }
    assert {name: said for name, (status, said) in asked.items() if status != 0} == {}


def test_a_client_over_its_budget_is_refused_and_others_are_not(platform: Platform) -> None:
    """Budgets across the pods of edge, rate limit service and Redis: reserved before admission, settled after
    the response.
    """
    first = platform.ask(key=TRIAL_KEY, max_tokens=20)
    assert first.status_code == 200, first.text
    assert first.headers["x-ratelimit-limit-tokens"] == "60"

    def settled() -> bool:
        watcher = platform.kube.client("watcher", "observability")
        url = f"http://{platform.pod('rate-limit-service').ip}:8082/metrics"
        text = watcher.call(lambda: httpx.get(url, timeout=5).text)
        return 'rate_limit_settlements_total{outcome="below_estimate"}' in text

    eventually(settled, "the router's report of the tokens came back to the budget", 30)
    refused = platform.ask(key=TRIAL_KEY, max_tokens=1000)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "request_exceeds_token_budget"
    while (again := platform.ask(key=TRIAL_KEY, max_tokens=20)).status_code == 200:
        assert int(again.headers["x-ratelimit-remaining-tokens"]) < 60
    assert again.status_code == 429, again.text
    assert again.json()["error"]["code"] == "tokens_per_minute_exceeded"
    assert 0 < int(again.headers["retry-after"]) <= 60
    assert platform.ask().status_code == 200, "another client has its own"
    unknown = platform.ask("/v1/nothing")
    assert unknown.status_code == 404, "what is answered without the router needs no budget"


def test_a_changed_limit_arrives_without_a_restart(platform: Platform) -> None:
    pod = platform.pod("rate-limit-service")
    before = pod.mains[0].pid
    config = platform.kube.objects["llm"]["ConfigMap", "rate-limit-service"]
    settings = yaml.safe_load(config["data"]["settings.yaml"])
    settings["limits"]["clients"]["trial"] = {"tokens_per_minute": 100_000}
    data = {**config["data"], "settings.yaml": yaml.safe_dump(settings)}
    platform.kube.apply({**config, "data": data})
    eventually(lambda: platform.ask(key=TRIAL_KEY, max_tokens=20).status_code == 200, "the new limit holds")
    assert pod.mains[0].pid == before


def test_a_rollout_reaches_the_router_through_the_config_map_that_its_controller_creates(
    platform: Platform,
) -> None:
    kube = platform.kube
    before = kube.objects["llm"]["ConfigMap", "router-service"]
    main = yaml.safe_load(before["data"]["router.yaml"])
    engine = {
        "url": f"http://{platform.pod('smollm2').ip}:8000",
        "health_url": f"http://{platform.pod('smollm2').ip}:8001/readyz",
    }
    main["pools"]["next"] = {"models": [MODEL], "backends": {"next-1": engine}}
    rollout = {"to": "next", "steps": [30, 60], "objectives": {"errors": 0.1}}
    rules = {"rules": [{"name": "all", "when": {}, "route_to": "general", "rollout": rollout}]}
    data = {"router.yaml": yaml.safe_dump(main), "rules.yaml": yaml.safe_dump(rules)}
    assert ("ConfigMap", "router-service-weights") not in kube.objects["llm"]
    kube.apply({**before, "data": data})

    def percent(wanted: float) -> bool:
        url = f"http://{platform.pod('router-service').ip}:8000/metrics"
        text = kube.client("watcher", "observability").call(lambda: httpx.get(url, timeout=5).text)
        return f'router_rollout_percent{{pool="next",rule="all"}} {wanted}' in text

    eventually(lambda: percent(30.0), "the router obeys the first step", 30)
    stored = kube.objects["llm"]["ConfigMap", "router-service-weights"]
    changed = stored["data"]["weights.yaml"].replace("30.0", "60.0")
    kube.apply({**stored, "data": {"weights.yaml": changed}})
    eventually(lambda: percent(60.0), "a share that somebody else wrote", 30)
    kube.delete_config_map("llm", "router-service-weights")
    eventually(lambda: percent(30.0), "the controller starts again at the first step", 30)
    log = platform.pod("router-service-rollout").log("rollout")
    assert "rollout_routers_silent" not in log, log
    assert '"leads":true' in log.replace(" ", ""), log
    assert kube.api.refused == [], "the controller's Role is enough"
    kube.apply(before)


def test_only_named_neighbours_are_let_in(platform: Platform) -> None:
    pods = {name: platform.pod(name).ip for name in (
        "router-service", "smollm2", "redis", "edge-gateway", "rate-limit-service",
    )}  # fmt: skip
    closed = [("router-service", 8000), ("smollm2", 8000), ("smollm2", 8001), ("redis", 6379),
              ("redis", 9121), ("edge-gateway", 9902), ("rate-limit-service", 8081),
              ("rate-limit-service", 8082)]  # fmt: skip
    callers = {
        "stranger": ("default", {}),
        "neighbour": ("llm", {}),
        "false-edge": ("default", {"app.kubernetes.io/name": "edge-gateway"}),
        "edge": ("llm", {"app.kubernetes.io/name": "edge-gateway"}),
        "router": ("llm", {"app.kubernetes.io/name": "router-service"}),
        "rollout": (
            "llm",
            {"app.kubernetes.io/name": "router-service-rollout", "app.kubernetes.io/instance": "router"},
        ),
        "budgets": ("llm", {"app.kubernetes.io/name": "rate-limit-service"}),
        "watcher": ("observability", {}),
    }
    for name, (namespace, labels) in callers.items():
        platform.kube.client(name, namespace, **labels)
    tried = [(name, *target) for name in callers for target in closed]
    with ThreadPoolExecutor(len(tried)) as pool:  # a dropped packet gets no answer until the timeout
        reached = pool.map(
            lambda one: platform.reaches(one[0], callers[one[0]][0], pods[one[1]], one[2]), tried
        )
        answered = dict(zip(tried, reached, strict=True))
    let_in = {name: [target for target in closed if answered[name, *target]] for name in callers}
    assert let_in == {
        "stranger": [], "neighbour": [], "false-edge": [],
        "edge": [("router-service", 8000), ("rate-limit-service", 8081)],
        "router": [("smollm2", 8000), ("smollm2", 8001), ("redis", 6379), ("rate-limit-service", 8081)],
        "rollout": [("router-service", 8000), ("redis", 6379)],
        "budgets": [("redis", 6379)],
        "watcher": [("router-service", 8000), ("smollm2", 8000), ("smollm2", 8001), ("redis", 9121), ("edge-gateway", 9902),
                    ("rate-limit-service", 8082)],
    }  # fmt: skip
    assert platform.reaches("stranger", "default", pods["edge-gateway"], 8080), "clients come from anywhere"
    router = platform.pod("router-service").holder

    def outward() -> bool:
        try:
            socket.create_connection((pods["edge-gateway"], 8080), 3.0).close()
        except OSError:
            return False
        return True

    assert not router.call(outward), "a router calls engines, Redis and telemetry, and nobody else"


def test_a_pod_writes_nowhere_but_into_its_volumes_and_has_no_rights(platform: Platform) -> None:
    for workload, place in (
        ("router-service", "/etc/router/x"),
        ("edge-gateway", "/opt/venv/x"),
        ("smollm2", "/x"),
        ("rate-limit-service", "/etc/rate-limit/x"),
    ):
        pod = platform.pod(workload)
        main = pod.mains[0]
        status, said = pod.execute(main, ["/bin/sh", "-c", f"touch {place}"])
        assert status != 0, workload
        assert "Read-only" in said or "Permission" in said
        facts = Path(f"/proc/{main.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in facts
        assert "CapEff:\t0000000000000000" in facts
        assert "CapBnd:\t0000000000000000" in facts
        assert "Uid:\t65532" in facts


def test_a_rotated_key_arrives_through_its_secret_without_a_restart(platform: Platform) -> None:
    edge = platform.pod("edge-gateway").mains[0].pid
    new = "sk-" + "b" * 40
    platform.kube.secret("llm", "edge-routes", **{"routes.yaml": routes(platform.folder, new)})
    eventually(lambda: platform.ask(key=new).status_code == 200, "the new key is let in", 30)
    eventually(lambda: platform.ask().status_code == 401, "the old key is not", 30)
    assert platform.pod("edge-gateway").mains[0].pid == edge
    platform.key = new


def test_prometheus_scrapes_every_pod_through_the_policies(platform: Platform) -> None:
    address = platform.kube.address("observability", "prometheus")
    watcher = platform.kube.client("watcher", "observability")

    def up() -> dict[str, float]:
        with Prometheus(f"http://{address}:9090", timeout_seconds=5) as prometheus:
            found = watcher.call(lambda: prometheus.values("up"))
        return {labels["job"]: value for labels, value in found}

    jobs = {"edge-gateway", "router-service", "rate-limit-service", "vllm", "backend-agent"}
    eventually(
        lambda: jobs <= up().keys() and {up()[job] for job in jobs} == {1.0}, f"{jobs} are up: {up()}", 40
    )


def test_a_running_stream_reaches_its_end_while_every_pod_on_its_way_is_told_to_stop(
    platform: Platform,
) -> None:
    """Runs last, because it ends the pods: each within its grace period, through its stop hook, without SIGKILL."""
    text: list[str] = []
    begun = threading.Event()

    def read() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 400,
                "stream": True, "ignore_eos": True}  # fmt: skip
        headers = {"authorization": f"Bearer {platform.key}", "content-type": "application/json"}
        with httpx.stream("POST", platform.edge + "/v1/chat/completions", content=json.dumps(body),
                          headers=headers, timeout=90) as answer:  # fmt: skip
            for piece in answer.iter_text():
                text.append(piece)
                begun.set()

    thread = threading.Thread(target=lambda: platform.outside.call(read), daemon=True)
    thread.start()
    assert begun.wait(30)
    path = [platform.pod(name) for name in ("edge-gateway", "router-service", "smollm2")]
    assert platform.kube.events() == [], "no probe failed until now"
    for pod in path:
        pod.terminate()
    assert thread.is_alive(), "the stream was still running when the pods were told"
    thread.join(90)
    assert "".join(text).rstrip().endswith("data: [DONE]"), "".join(text)[-300:]
    rest = [pod for pod in platform.kube.pods if pod not in path]
    for pod in rest:
        pod.terminate()
    for pod in [*path, *rest]:
        assert pod.ended.wait(120), pod.name
        assert pod.killed == [], pod.name
        assert pod.stop_seconds < pod.spec.get("terminationGracePeriodSeconds", 30)
    assert path[0].hooks == {"edge": 0}
    assert path[2].hooks == {"engine": 0}
    assert platform.kube.events() == []
