"""Alertmanager's own tool accepts the configuration and sends every alert where its severity says."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from observability.rules.alert import Alert
from observability.rules.alertmanager import alertmanager_configuration
from observability.rules.alerts import alerts
from observability.rules.cluster_alerts import cluster_alerts


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


@pytest.mark.parametrize("alert", [*alerts(), *cluster_alerts()], ids=lambda alert: alert.name)
def test_an_alert_goes_where_its_severity_says(configuration: Path, alert: Alert) -> None:
    labels = [f"alertname={alert.name}", f"severity={alert.severity}", "pool=general", "backend=backend-a"]
    out = amtool("config", "routes", "test", f"--config.file={configuration}", *labels)
    assert out.strip() == alert.severity


def test_an_alert_without_a_severity_still_reaches_somebody(configuration: Path) -> None:
    out = amtool("config", "routes", "test", f"--config.file={configuration}", "alertname=Unknown")
    assert out.strip() == "ticket"


def test_every_name_in_a_rule_that_keeps_alerts_quiet_is_an_alert() -> None:
    known = {alert.name for alert in [*alerts(), *cluster_alerts()]}
    for rule in alertmanager_configuration()["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            assert set(re.findall(r"[A-Z]\w+", matcher)) <= known
