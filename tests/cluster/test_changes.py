"""Changes to a running platform: rules and keys without a restart, and a chart upgrade under load."""

import secrets
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from cluster import load
from cluster.kubectl import Kubectl, names, run, wait_for
from cluster.platform import ROOT, Platform, app

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

BEFORE = "b21b1ba"
"""The commit before this suite, from which charts are upgraded until there is a release."""


def test_rules_change_without_a_restart(platform: Platform, kubectl: Kubectl, tmp_path: Path) -> None:
    before = names(kubectl.pods("llm", app("router-service")))
    rule_of_suite = {"name": "suite_rule", "when": {"max_tokens_gte": 7}, "route_to": "general"}
    # The environment's rule tests name a removed rule, so routers would refuse the file.
    rules = {"rules": {"rules": [rule_of_suite], "tests": []}}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    platform.upgrade("router", "-f", str(tmp_path / "rules.yaml"))

    def rule() -> str:
        with platform.edge() as client:
            return platform.ask(client).headers.get("x-route-rule", "")

    try:
        wait_for(
            "both routers use the new rule", lambda: [rule() for _ in range(6)] == ["suite_rule"] * 6, 150
        )
    finally:
        platform.upgrade("router")
    wait_for(
        "both routers use the old rules again", lambda: "suite_rule" not in {rule() for _ in range(6)}, 150
    )
    assert names(kubectl.pods("llm", app("router-service"))) == before


def test_keys_change_without_a_restart(platform: Platform, kubectl: Kubectl) -> None:
    before = names(kubectl.pods("llm", app("edge-gateway")))
    key = f"sk-{secrets.token_hex(24)}"

    def statuses() -> set[int]:
        """Query each edge by its pod name, because kubectl forwards to one pod only."""
        found = set()
        for pod in names(kubectl.pods("llm", app("edge-gateway"))):
            page = kubectl(
                "exec", pod, "-n", "llm", "-c", "edge", "--", "/opt/venv/bin/python", "-c", ASK_WITH_KEY, key
            )
            found.add(int(page))
        return found

    assert statuses() == {401}
    platform.keys["late"] = key
    platform.write_keys()
    wait_for("both edges accept the new key", lambda: statuses() == {200}, 150, every=2.0)
    del platform.keys["late"]
    platform.write_keys()
    wait_for("both edges reject it again", lambda: statuses() == {401}, 150, every=2.0)
    assert names(kubectl.pods("llm", app("edge-gateway"))) == before


ASK_WITH_KEY = """
import sys, urllib.error, urllib.request
request = urllib.request.Request("http://127.0.0.1:8080/v1/models", headers={"authorization": "Bearer " + sys.argv[1]})
try:
    print(urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
UPGRADED = ("redis", "rate-limits", "router", "edge")
"""Releases on the request path whose chart is upgraded, innermost first."""
NEWER_SETTINGS = {"router": ("config.budgets",), "edge": ("minReadySeconds", "settleSeconds")}
"""Release → settings of this environment that the older chart does not have yet."""


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The charts of the commit ``BEFORE``, from the git history."""
    done = subprocess.run(
        ["git", "-C", ROOT, "archive", BEFORE, "helm"], capture_output=True, check=False, timeout=60
    )
    if done.returncode:
        pytest.skip(f"commit {BEFORE} is not in this clone: {done.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=done.stdout, check=True, timeout=60)
    return tmp_path / "helm"


def older_values(platform: Platform, release: str, folder: Path) -> Path:
    """Write the environment's values of a release without those that the older chart does not have."""
    values = yaml.safe_load(platform.own_values(release).read_text())
    for setting in NEWER_SETTINGS.get(release, ()):
        *parents, last = setting.split(".")
        section = values
        for name in parents:
            section = section[name]
        del section[last]
    file = folder / f"older-{release}.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def together(change: Callable[[str], None]) -> None:
    """Change every release of ``UPGRADED`` at the same time."""
    with ThreadPoolExecutor(len(UPGRADED)) as pool:
        list(pool.map(change, UPGRADED))


def test_charts_are_upgraded_and_rolled_back_under_load(
    platform: Platform, kubectl: Kubectl, older: Path, tmp_path: Path
) -> None:
    def install_older(release: str) -> None:
        name = platform.chart(release).name
        # Before the prefix, the chart of `redis` was a folder of that name.
        chart = older / (name if (older / name).exists() else name.removeprefix("llm-"))
        platform.upgrade(release, chart=chart, own=older_values(platform, release, tmp_path))

    try:
        together(install_older)  # without load, so the order does not matter
        platform.whole()
        with load.load(kubectl, platform.load_image, "upgrade") as run_up:
            for release in UPGRADED:
                platform.upgrade(release)
            up = run_up.finish()
        platform.whole()
        with load.load(kubectl, platform.load_image, "rollback") as run_back:
            for release in reversed(UPGRADED):
                run(platform.helm, "rollback", release, "-n", "llm", "--wait", "--timeout", "4m", timeout=300)
            back = run_back.finish()
    finally:
        together(platform.upgrade)
        platform.settled()
    assert not up.lost, f"upgrade: {up.said()}"
    assert not back.lost, f"rollback: {back.said()}"
