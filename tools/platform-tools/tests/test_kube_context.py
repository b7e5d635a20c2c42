"""A command derives its cluster from its environment, never from the current context."""

from typing import Any

import pytest

from platform_tools.kube_context import WrongCluster, eks_context, other_context

DEV = "arn:aws:eks:eu-central-1:123456789012:cluster/llm-dev"
PROD = "arn:aws:eks:eu-central-1:123456789012:cluster/llm-prod"
ENDPOINT = "https://ABC.gr7.eu-central-1.eks.amazonaws.com"
HOST = "ABC.gr7.eu-central-1.eks.amazonaws.com"


def config(current: str = "", **clusters: tuple[str, dict[str, str]]) -> dict[str, Any]:
    """Return a kubeconfig: context name → (cluster name, cluster)."""
    return {
        "current-context": current,
        "clusters": [{"name": name, "cluster": cluster} for name, cluster in clusters.values()],
        "contexts": [{"name": one, "context": {"cluster": name}} for one, (name, _) in clusters.items()],
    }


@pytest.mark.parametrize(
    "cluster",
    [
        {"server": ENDPOINT},
        {"server": ENDPOINT + "/"},
        {"server": "https://127.0.0.1:8443", "tls-server-name": HOST},
        {"server": "https://localhost:8443", "tls-server-name": HOST},
    ],
)
def test_the_clusters_own_context_is_found_whatever_is_current(cluster: dict[str, str]) -> None:
    found = config("p", p=(PROD, {"server": "https://OTHER.eks.amazonaws.com"}), d=(DEV, cluster))
    assert eks_context(found, DEV, ENDPOINT) == "d"


@pytest.mark.parametrize(
    ("clusters", "said"),
    [
        ({}, "no kubeconfig context leads to"),
        ({"p": (PROD, {"server": "https://OTHER.eks.amazonaws.com"})}, "(contexts: p)"),
        ({"p": (PROD, {"server": ENDPOINT})}, "no kubeconfig context leads to"),
        ({"d": (DEV, {"server": "https://OTHER.eks.amazonaws.com"})}, "leads to https://OTHER.eks"),
        ({"d": (DEV, {"server": "https://127.0.0.1:8443"})}, "leads to https://127.0.0.1:8443"),
        ({"d": (DEV, {"server": "https://10.0.0.1", "tls-server-name": HOST})}, "leads to https://10.0.0.1"),
    ],
)
def test_everything_else_is_refused_with_the_remedy(
    clusters: dict[str, tuple[str, dict[str, str]]], said: str
) -> None:
    with pytest.raises(WrongCluster) as caught:
        eks_context(config("p", **clusters), DEV, ENDPOINT)
    assert said in str(caught.value)
    assert "aws eks update-kubeconfig --region eu-central-1 --name llm-dev" in str(caught.value)


def test_another_environment_takes_the_current_context_unless_terraform_made_its_cluster() -> None:
    found = config("kind-a", **{"kind-a": ("kind-a", {"server": "https://127.0.0.1:1"})})
    assert other_context(found, "kind") == "kind-a"
    with pytest.raises(WrongCluster, match="not a cluster for"):
        other_context(config("d", d=(DEV, {"server": ENDPOINT})), "kind")
    with pytest.raises(WrongCluster, match="no current context"):
        other_context(config(), "kind")
