"""No third-party part runs with a published default credential, or without a password where it can have one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.kubernetes.charts import EXAMPLES, HELM, containers, manifests, pod_specs

pytestmark = pytest.mark.programs

Container = dict[str, Any]


def containers_of(documents: list[dict[str, Any]]) -> list[Container]:
    """Return the containers of workloads; the pods of `helm test` are clients."""
    workloads = [document for document in documents if document["kind"] != "Pod"]
    return [container for spec in pod_specs(workloads) for container in containers(spec)]


def grafana(container: Container, documents: list[dict[str, Any]]) -> list[str]:
    """Return the well-known defaults that Grafana keeps: admin/admin, the published secret key, anonymous access."""
    names = {one["name"]: one.get("value") for one in container["env"]}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    wanted = (
        "GF_SECURITY_ADMIN_USER__FILE",
        "GF_SECURITY_ADMIN_PASSWORD__FILE",
        "GF_SECURITY_SECRET_KEY__FILE",
    )
    files = {name: str(names.get(name)) for name in wanted}
    found = [name for name, file in files.items() if file.rpartition("/")[0] not in mounted]
    volumes = [volume for spec in pod_specs(documents) for volume in spec.get("volumes", [])]
    items = {item["path"] for volume in volumes for item in volume.get("secret", {}).get("items", [])}
    found += [name for name, file in files.items() if file.rpartition("/")[2] not in items]
    return found + [name for name in names if name.startswith("GF_AUTH_ANONYMOUS")]


def redis(container: Container, documents: list[dict[str, Any]]) -> list[str]:
    """Return the commands that start Redis without a file of users and passwords."""
    texts = [
        d["data"]["redis.conf"] for d in documents if d["kind"] == "ConfigMap" and "redis.conf" in d["data"]
    ]
    command = str(container.get("command", ""))
    listed = bool(texts) and all("\naclfile " in text for text in texts)
    digested = "user default on #$digest" in command and "nopass" not in command
    return [] if listed and digested else ["a Redis without a password"]


def nothing(container: Container, documents: list[dict[str, Any]]) -> list[str]:
    """Accept a part that has no credential of its own; network policies limit who reaches it."""
    return []


# Repository of every image that is not ours -> its check.
PARTS: dict[str, Callable[[Container, list[dict[str, Any]]], list[str]]] = {
    "grafana/grafana": grafana,
    "library/redis": redis,
    "oliver006/redis_exporter": nothing,
    "prom/prometheus": nothing,
    "prom/alertmanager": nothing,
    "grafana/loki": nothing,
    "grafana/tempo": nothing,
    "grafana/alloy": nothing,
    "nvidia/k8s/dcgm-exporter": nothing,
}


def repository_of(image: str) -> str:
    """Return an image's repository without its registry, tag and digest."""
    parts = image.partition("@")[0].rpartition(":")[0].split("/")
    return "/".join(parts[1:] if "." in parts[0] else parts)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_no_part_keeps_a_credential_that_everybody_knows(path: Path) -> None:
    documents = manifests(path.parent.parent.name, path)
    for container in containers_of(documents):
        repository = repository_of(container["image"])
        if not repository.startswith("llm-platform/"):
            assert PARTS[repository](container, documents) == [], container["name"]


def test_every_part_of_others_is_in_the_table_and_used() -> None:
    images = {
        repository_of(container["image"])
        for path in EXAMPLES
        for container in containers_of(manifests(path.parent.parent.name, path))
    }
    assert {name for name in images if not name.startswith("llm-platform/")} == PARTS.keys()


@pytest.mark.parametrize("lost", ["GF_SECURITY_SECRET_KEY__FILE", "GF_SECURITY_ADMIN_PASSWORD__FILE"])
def test_a_default_that_grafana_keeps_is_reported(lost: str) -> None:
    documents = manifests("llm-grafana", HELM / "llm-grafana" / "examples" / "port-forward.yaml")
    (container,) = (one for one in containers_of(documents) if "grafana/grafana" in one["image"])
    without = {**container, "env": [one for one in container["env"] if one["name"] != lost]}
    assert lost in grafana(without, documents)
    anonymous = {
        **container,
        "env": [*container["env"], {"name": "GF_AUTH_ANONYMOUS_ENABLED", "value": "true"}],
    }
    assert grafana(anonymous, documents) == ["GF_AUTH_ANONYMOUS_ENABLED"]


def test_a_redis_without_users_is_reported() -> None:
    documents = manifests("llm-redis", HELM / "llm-redis" / "examples" / "cache.yaml")
    (container,) = (one for one in containers_of(documents) if "library/redis" in one["image"])
    assert redis({**container, "command": ["redis-server"]}, documents) != []
    assert redis(container, [one for one in documents if one["kind"] != "ConfigMap"]) != []
