"""The rollout controller's ConfigMap on a real API server: the chart's Role allows what it needs and nothing else."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_asyncio import client, config

from cluster.kubectl import Kubectl
from harness.kubernetes.charts import HELM, manifests
from router_service.config.rollout_model import ShareSection
from router_service.rollout.config_map import ConfigMapStore
from router_service.rollout.weights_store import WeightsProblem

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

NAMESPACE = "rollout-weights"
WEIGHTS = "router-service-weights"
EXAMPLE = HELM / "router-service/examples/with-rollout.yaml"
Store = Callable[[str], ConfigMapStore]


@pytest.fixture(scope="module")
def account(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of the controller's ServiceAccount, with the Role of the chart in a namespace of its own."""
    documents = [
        {**one, "metadata": {**one["metadata"], "namespace": NAMESPACE}}
        for one in manifests("router-service", EXAMPLE)
        if one["metadata"]["name"] in (WEIGHTS, "router-service-rollout")
        and one["kind"] in ("ServiceAccount", "Role", "RoleBinding")
    ]
    assert len(documents) == 3
    (binding,) = (one for one in documents if one["kind"] == "RoleBinding")
    binding["subjects"] = [{**binding["subjects"][0], "namespace": NAMESPACE}]
    kubectl("create", "namespace", NAMESPACE)
    try:
        kubectl.apply(*documents)
        token = kubectl("create", "token", "router-service-rollout", "-n", NAMESPACE).strip()
        found = yaml.safe_load(kubectl("config", "view", "--raw", "--flatten", "--minify"))
        found["users"] = [{"name": found["contexts"][0]["context"]["user"], "user": {"token": token}}]
        file = tmp_path_factory.mktemp("account") / "kubeconfig"
        file.write_text(yaml.safe_dump(found))
        yield file
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def with_stores(account: Path, folder: Path, steps: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    """Run ``steps`` with a function that makes the store of a ConfigMap; each has a connection of its own."""

    async def run() -> None:
        settings = client.Configuration()
        await config.load_kube_config(str(account), client_configuration=settings)
        stores: list[ConfigMapStore] = []

        def store(name: str) -> ConfigMapStore:
            stores.append(
                ConfigMapStore(NAMESPACE, name, folder / "weights.yaml", client.ApiClient(settings))
            )
            return stores[-1]

        try:
            await steps(store)
        finally:
            for one in stores:
                await one.close()

    asyncio.run(run())


def share(percent: float) -> dict[str, ShareSection]:
    return {"everyone": ShareSection(to="next", percent=percent)}


def test_the_controller_creates_and_changes_its_weights(
    account: Path, kubectl: Kubectl, tmp_path: Path
) -> None:
    file = tmp_path / "weights.yaml"

    async def steps(store: Store) -> None:
        first, second = store(WEIGHTS), store(WEIGHTS)
        await first.refresh()
        await first.write(file, share(5))
        await second.refresh()
        await first.write(file, share(25))
        with pytest.raises(WeightsProblem, match="has changed since it was read"):
            await second.write(file, share(50))
        await second.refresh()
        await second.write(file, share(50))

    with_stores(account, tmp_path, steps)
    kept = yaml.safe_load(kubectl.one("configmap", WEIGHTS, NAMESPACE)["data"][file.name])
    assert kept["rollouts"]["everyone"]["percent"] == 50


def test_the_controller_may_touch_no_other_object(account: Path, tmp_path: Path) -> None:
    async def steps(store: Store) -> None:
        other = store("another")
        for verb, call in (
            ("get", other.refresh()),
            ("patch", other.write(tmp_path / "weights.yaml", share(5))),
        ):
            with pytest.raises(WeightsProblem, match=f'may not {verb} it: configmaps "another" is forbidden'):
                await call

    with_stores(account, tmp_path, steps)
