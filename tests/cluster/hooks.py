"""Faults that need access to the nodes: commands from environment variables.

A test is skipped if its variable is not set.
"""

import os
import shlex
import subprocess

import pytest

HOOKS = {
    "CLUSTER_KILL": "sends SIGKILL to the first process of {container} of {pod} in {namespace}",
    "CLUSTER_CUT": "disconnects the node CLUSTER_CUT_NODE from the others and returns",
    "CLUSTER_MEND": "connects the node again",
    "CLUSTER_CUT_NODE": "the name of that node",
    "CLUSTER_API_DOWN": "stops the API server",
    "CLUSTER_API_UP": "starts it again",
}
"""The action of the command in each variable, or the meaning of its value."""


def require(*variables: str) -> None:
    """Skip the test unless every variable is set; the reason names those that are not."""
    missing = [name for name in variables if not os.environ.get(name)]
    if missing:
        wanted = "; ".join(f"{name} ({HOOKS[name]})" for name in missing)
        pytest.skip(f"not set: {wanted}")


def call(variable: str, **values: str) -> None:
    """Run a hook's command with its placeholders filled in.

    Raises:
        AssertionError: it failed, with its output.
    """
    command = os.environ[variable]
    for name, value in values.items():
        command = command.replace("{" + name + "}", shlex.quote(value))
    done = subprocess.run(
        ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{variable}: {command}\n{done.stdout}"
