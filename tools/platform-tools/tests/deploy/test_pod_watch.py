"""A removal waits for the pods that the API server still has, not only for those that run."""

from typing import Any

import pytest

from platform_tools.deploy.pod_watch import _awaited

DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("phase", "metadata", "only_ending", "awaited"),
    [
        ("Running", {}, False, True),  # the garbage collector has not reached it yet
        ("Running", DELETED, False, True),
        ("Failed", DELETED, False, True),  # its processes have ended, the kubelet removes it
        ("Succeeded", DELETED, True, True),
        ("Running", {}, True, False),  # a pod of another installation under this name
        ("Failed", {}, False, False),  # evicted: it stays until somebody deletes it
    ],
)
def test_a_removal_waits_for_each_pod_that_is_being_removed(
    phase: str, metadata: dict[str, str], only_ending: bool, awaited: bool
) -> None:
    pod: dict[str, Any] = {"metadata": {"name": "alertmanager", **metadata}, "status": {"phase": phase}}
    assert _awaited(pod, only_ending) is awaited
