"""Alertmanager's own tool accepts the configuration and sends every alert where its severity says."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from observability.alerts import alerts
from observability.notifying import alertmanager_configuration


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("alertmanager") / "alertmanager.yml"
    path.write_text(yaml.safe_dump(alertmanager_configuration()))
    return path


def amtool(*arguments: str) -> str:
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_it(configuration: Path) -> None:
    assert "SUCCESS" in amtool("check-config", str(configuration))


@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_an_alert_goes_where_its_severity_says(configuration: Path, severity: str) -> None:
    out = amtool("config", "routes", "test", f"--config.file={configuration}", f"severity={severity}")
    assert out.strip() == severity
    assert severity in {alert.severity for alert in alerts()}


def test_every_name_in_a_rule_that_keeps_alerts_quiet_is_an_alert() -> None:
    known = {alert.name for alert in alerts()}
    for rule in alertmanager_configuration()["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            assert set(re.findall(r"[A-Z]\w+", matcher)) <= known
