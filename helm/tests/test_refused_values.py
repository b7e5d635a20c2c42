"""Helm refuses wrong values in a sentence that names the value and the remedy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.kubernetes.charts import CHARTS, EDGE, ENGINE, HELM, LIMITS, REDIS, ROUTER, name_of, template
from router_service.config.model import Configuration
from router_service.routing.conditions import kinds

pytestmark = pytest.mark.programs

# Every cluster has this; `helm template` knows no such version and renders custom resources all the same.
OF_A_CLUSTER = ("apiregistration.k8s.io/v1",)
GRACE = "terminationGracePeriodSeconds"
MODEL = json.loads((HELM / ENGINE / "files/models/mistral-7b-instruct-v0.2-awq.json").read_text())
NO_REVISION = json.dumps({**MODEL, "model": {**MODEL["model"], "revision": ""}})


REFUSED = {
    "a typo": (ROUTER, {"replica": "3"}, "replica"),
    "no pool": (ROUTER, {"config__pools": "{}"}, "config.pools is empty: name at least one pool"),
    "an unknown default pool": (
        ROUTER, {"config__routing__default_pool": '"x"'},
        'config.routing.default_pool: "x" is not one of config.pools (large, small)',
    ),
    "an unknown section": (ROUTER, {"config__retry": "{}"}, "retry"),
    "two that set the number of routers": (
        ROUTER, {"keda__enabled": "true", "autoscaling__enabled": "true"}, "keda.enabled and autoscaling.enabled: both",
    ),
    "routers by KEDA without its CRD": (ROUTER, {"keda__enabled": "true"}, "keda.enabled needs the CRD keda.sh/v1alpha1"),
    "a misspelled condition": (
        ROUTER, {"rules__rules": '[{"name": "a", "when": {"max_token_gte": 8}, "route_to": "small"}]'},
        "'max_token_gte' not allowed",
    ),
    "a condition of the wrong type": (
        ROUTER, {"rules__rules": '[{"name": "a", "when": {"any": [{"stream": "yes"}]}, "route_to": "small"}]'},
        "got string, want boolean",
    ),
    "a misspelled setting": (ROUTER, {"config__timeouts": '{"total_second": 9}'}, "'total_second' not allowed"),
    "a setting out of bounds": (ROUTER, {"config__retries": '{"max_attempts": 99}'}, "/config/retries/max_attempts"),
    "a rule to a pool that does not exist": (
        ROUTER, {"rules__rules": '[{"name": "a", "when": {}, "route_to": "smal"}]'},
        'rules.rules[0].route_to: "smal" is not one of config.pools (large, small)',
    ),
    "a weighted rule to a pool that does not exist": (
        ROUTER, {"rules__rules": '[{"name": "a", "when": {}, "route_to": [{"pool": "no"}]}]'},
        'rules.rules[0].route_to.pool: "no" is not one of',
    ),
    "a rule test of another rule": (
        ROUTER, {"rules__tests": '[{"name": "t", "request": {}, "expect": {"rule": "nope"}}]'},
        'rules.tests[0].expect.rule: "nope" is not a rule (known: default, long_answers)',
    ),
    "a rule test of a model that the pool has not": (
        ROUTER, {"rules__tests": '[{"name": "t", "request": {"model": "x"}, "expect": {"pool": "small"}}]'},
        'rules.tests[0].request.model: pool small does not serve "x"',
    ),
    "two rules of one name": (
        ROUTER,
        {"rules__rules": '[{"name": "a", "when": {}, "route_to": "small"}, {"name": "a", "when": {}, "route_to": "small"}]'},
        'rules.rules[1].name: "a" is taken',
    ),
    "a rollout without its controller": (
        ROUTER,
        {"rules__rules": '[{"name": "a", "when": {}, "route_to": "small", "rollout": {"to": "large"}}]'},
        "rules.rules[0].rollout: nothing would set its share: set rollout.enabled to true",
    ),
    "a rollout's weights file of one's own": (
        ROUTER, {"rollout__enabled": "true", "config__routing__weights_file": '"w.yaml"'},
        "config.routing.weights_file belongs to the chart with rollout.enabled (the ConfigMap router-service-weights)",
    ),
    "two controllers of rollouts without a lock": (
        ROUTER, {"rollout__enabled": "true", "rollout__replicas": "2", "redis__enabled": "false"},
        "rollout.replicas 2 without redis.enabled: only a lock in Redis selects the controller that decides",
    ),
    "a fallback that does not exist": (
        ROUTER, {"config__routing__fallback": '{"small": ["tiny"]}'}, 'config.routing.fallback.small: "tiny" is not one of',
    ),
    "a namespace that the router may not watch": (
        ROUTER, {"discovery__namespaces": '["other"]'}, 'may not watch "llm": add it to discovery.namespaces',
    ),
    "an alias of nothing": (
        ROUTER, {"config__pools__small__aliases": '{"b": "c"}'}, 'config.pools.small.aliases.b: "c" is not a model',
    ),
    "backends and discovery at once": (
        ROUTER, {"config__pools__small__backends": '{"a": {"url": "http://a:1"}}'},
        "needs exactly one of backends and discover",
    ),
    "a chart that is not to be installed": (ROUTER, {"enabled": "false"}, "/enabled"),
    "an ingress without a host": (EDGE, {"ingress__enabled": "true"}, "ingress.hosts is empty"),
    "a console's ingress without a host": ("console", {"ingress__enabled": "true"}, "ingress.hosts is empty"),
    "a route without a gateway": (
        EDGE, {"httpRoute__enabled": "true"}, "httpRoute.enabled needs the CRD gateway.networking.k8s.io/v1",
    ),
    "a limit of nothing": (LIMITS, {"limits__default__requests_per_minute": "0"}, "minimum"),
    "a port that the Service does not expect": (
        ROUTER, {"config__server": '{"port": 9000}'}, "config.server.port belongs to the chart (the Service expects 8000)",
    ),
    "a password in the router's ConfigMap": (ROUTER, {"redis__url": '"redis://:secret@redis:6379/0"'}, "url"),
    "an authority without TLS": (
        ROUTER, {"redis__caSecret": '"ca"'},
        "redis.caSecret has no effect without TLS: begin redis.url (redis://redis.llm.svc.cluster.local:6379/0) with rediss://",
    ),
    "an authority of the budgets without TLS": (
        LIMITS, {"redis__caSecret": '"ca"'}, "redis.caSecret has no effect without TLS",
    ),
    "no Redis password": (ROUTER, {"redis__passwordSecret": '""'}, "redis.passwordSecret is empty"),
    "one replica with a budget": (ROUTER, {"replicas": "1"}, "pdb.enabled with 1 replicas"),
    "zero replicas": (ROUTER, {"replicas": "0"}, "replicas"),
    "a short grace period": (ROUTER, {GRACE: "30"}, f"{GRACE} 30 is shorter than the drain"),
    "root": (ROUTER, {"runAsUser": "0"}, "runAsUser"),
    "a digest that is none": (ROUTER, {"image__digest": '"sha256:12"'}, "digest"),
    "a monitor without its CRD": (
        ROUTER, {"serviceMonitor__enabled": "true"}, "serviceMonitor.enabled needs the CRD",
    ),
    "no keys": (EDGE, {"routesSecret": '""'}, "routesSecret is empty"),
    "TLS without a certificate": (
        EDGE, {"tls__enabled": "true", "tls__secret": '""'}, "tls.enabled and tls.secret is empty: kubectl create",
    ),
    "a certificate for nobody": (
        EDGE, {"tls__enabled": "false", "tls__certManager__enabled": "true"},
        "tls.certManager.enabled and tls.enabled is false",
    ),
    "cert-manager without its CRD": (
        EDGE, {"tls__certManager__enabled": "true"}, "tls.certManager.enabled needs the CRD cert-manager.io/v1",
    ),
    "an edge's own configuration that does not do what is said": (
        EDGE, {"envoy": '"static_resources: {}"'},
        "envoy is a configuration without budgets and budgets.enabled is true: set it to false",
    ),
    "an unknown way without budgets": (EDGE, {"budgets__whenUnavailable": '"maybe"'}, "whenUnavailable"),
    "budgets for nobody": (
        LIMITS, {"limits__default": "{}"}, "limits.default, limits.clients and limits.teams are empty, so nobody",
    ),
    "budgets of everybody's Redis": (LIMITS, {"redis__passwordSecret": '""'}, "redis.passwordSecret is empty"),
    "a limit that is none": (LIMITS, {"limits__default__tokens_per_hour": "9"}, "tokens_per_hour"),
    "a password where everybody reads it": (LIMITS, {"redis__url": '"redis://:secret@redis:6379/1"'}, "url"),
    "spans to two places": (
        ENGINE, {
            "weights__source": '"/models"', "tracing__endpoint": '"http://a:4317"',
            "rendered": '{"argv": ["--otlp-traces-endpoint"], "env": {}, "model": {"name": "m", "needs": {}}}',
        },
        "tracing.endpoint is set and the model file's arguments name --otlp-traces-endpoint too",
    ),
    "a collector without a port": (ENGINE, {"tracing__endpoint": '"http://alloy"'}, "endpoint"),
    "an edge that is killed while it drains": (
        EDGE, {GRACE: "600"}, f"{GRACE} 600 is not longer than the drain",
    ),
    "Redis for everybody": (REDIS, {"passwordSecret": '""'}, "passwordSecret is empty"),
    "no model": (ENGINE, {"model": '""'}, "model is empty: choose one of llama-3.1-8b-instruct-awq"),
    "an unknown model": (ENGINE, {"model": '"mistral"'}, 'model "mistral" is not a model file (known: llama'),
    "a GPU model without a GPU": (
        ENGINE, {"needs__gpus": "0"}, "needs.gpus 0: the model llama-3.1-8b-instruct-awq needs 1; a CPU cannot",
    ),
    "a CPU model with a GPU": (
        ENGINE, {"model": '"smollm2-135m-instruct"', "needs__gpus": "1", "weights__source": '"/models"'},
        "needs.gpus 1: the model file of smollm2-135m-instruct is for a CPU",
    ),
    "weights of a branch that can change": (
        ENGINE, {"rendered": NO_REVISION}, "names no revision: the hub's main branch can change",
    ),
    "less shared memory than the KV offload": (
        ENGINE, {"needs__shmGib": "4"}, "needs.shmGib 4 is less than the KV offload of 4 GiB + 1",
    ),
    "an engine that is killed while it drains": (
        ENGINE, {GRACE: "60"}, f"{GRACE} 60 is shorter than the drain: drainSeconds 570 + 30 = 600",
    ),
    "weights from nowhere": (
        ENGINE, {"model": '"smollm2-135m-instruct"'}, "weights.source is empty and the model file of smollm2",
    ),
    "a claim without a name": (ENGINE, {"weights__cache__kind": '"claim"'}, "weights.cache.claim is empty"),
    "a misspelled setting of the edge": (
        EDGE, {"settings": '{"timeouts": {"silent_anwser_seconds": 700}}'}, "silent_anwser_seconds",
    ),
    "a setting of the edge out of its bounds": (EDGE, {"settings": '{"trusted_proxies": 9}'}, "trusted_proxies"),
    "a setting that the route table holds": (EDGE, {"settings": '{"cors": {}}'}, "cors"),
    "settings and a configuration of one's own": (
        EDGE, {"settings": '{"trusted_proxies": 1}', "envoy": '"x: 1"'}, "settings and envoy are both set",
    ),
    "settings of budgets that are off": (
        EDGE, {"settings": '{"budgets": {"timeout_seconds": 1}}', "budgets__enabled": "false"}, "budgets.enabled",
    ),
    "a backend that is no name": (ENGINE, {"backend": '"My.Backend"'}, 'backend "My.Backend" is not a Service'),
    "a GPU judged by its CPU": (ENGINE, {"device": '"process"'}, 'device "process": the model llama'),
    "half a rendered model": (ENGINE, {"rendered": '{"argv": []}'}, "rendered.env is missing: render it with"),
    "from zero without a pool": (ENGINE, {"keda__enabled": "true", "keda__minReplicas": "0"}, "keda.routerPool"),
    "KEDA without its CRD": (ENGINE, {"keda__enabled": "true"}, "keda.enabled needs the CRD keda.sh/v1alpha1"),
    "a pod monitor without its CRD": (
        ENGINE, {"podMonitor__enabled": "true"}, "podMonitor.enabled needs the CRD",
    ),
    "an unknown receiver": (
        "llm-prometheus", {"alertmanager__receivers": '{"chat": {}}'}, "alertmanager.receivers has chat",
    ),
    "a bucket without a name": ("llm-loki", {"storage__bucket": '""'}, "storage.kind is s3 and storage.bucket"),
    "a bucket without a region": ("llm-tempo", {"storage__region": '""'}, "storage.kind is s3 and storage.region"),
    "a trace judged too early": (
        "llm-alloy", {"sampling__decisionSeconds": "1"}, "sampling.decisionSeconds 1 is shorter than",
    ),
    "Grafana for everybody": ("llm-grafana", {"adminSecret": '""'}, "adminSecret is empty: kubectl create secret"),
    "rules for an operator that is not there": (
        "observability", {"prometheusRule__enabled": "true"}, "prometheusRule.enabled needs the CRD",
    ),
    "a size without a unit": (REDIS, {"persistence__size": '"2"'}, "size"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_refused_by_name(case: str) -> None:
    chart, sets, said = REFUSED[case]
    example = sorted((HELM / chart / "examples").glob("*.yaml"))[-1 if chart != "router-service" else 0]
    done = template(chart, example, apis=OF_A_CLUSTER, **sets)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("chart", CHARTS, ids=name_of)
def test_every_value_has_a_schema_and_every_schema_key_a_value(chart: Path) -> None:
    schema = json.loads((chart / "values.schema.json").read_text())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    assert schema["additionalProperties"] is False
    assert schema["properties"].keys() == values.keys()


@pytest.mark.parametrize("option", ["serviceMonitor", "keda"])
def test_without_a_cluster_custom_resources_render(option: str) -> None:
    """`helm template` and GitOps tools render what `helm install` installs."""
    example = sorted((HELM / ROUTER / "examples").glob("*.yaml"))[0]
    assert template(ROUTER, example, **{f"{option}__enabled": "true"}).returncode == 0


def test_the_model_schemas_know_every_setting_and_condition() -> None:
    """The sections of the chart are those of the router's models, except redis, which is a separate value."""
    schema = json.loads((HELM / ROUTER / "values.schema.json").read_text())
    assert schema["properties"]["config"]["properties"].keys() == Configuration.model_fields.keys() - {
        "redis"
    }
    assert schema["$defs"]["When"]["properties"].keys() == {*kinds(), "all", "any", "not"}


@pytest.mark.parametrize("chart", sorted(path.parent.name for path in HELM.glob("*/Chart.yaml")))
def test_every_value_has_a_description_that_editors_show(chart: str) -> None:
    schema = json.loads((HELM / chart / "values.schema.json").read_text())

    def without(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            if value.get("description") == "":
                yield path
            for key, below in value.items():
                yield from without(below, f"{path}.{key}")
        elif isinstance(value, list):
            for number, below in enumerate(value):
                yield from without(below, f"{path}[{number}]")

    bare = [key for key, value in schema["properties"].items() if not {"description", "$ref"} & value.keys()]
    assert bare == []
    assert list(without(schema, "")) == []
