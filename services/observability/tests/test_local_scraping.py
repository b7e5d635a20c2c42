"""Prometheus and Alertmanager accept what is rendered for the local stack, on whatever ports it has."""

import subprocess
from pathlib import Path

import pytest
import yaml

from observability.main import main
from observability.rules.scrape_local import LOCAL_JOBS, prometheus_configuration


def test_every_part_of_the_local_stack_is_scraped_at_its_own_port() -> None:
    environment = {variable: str(20000 + n) for n, (variable, *_) in enumerate(LOCAL_JOBS.values())}
    jobs = prometheus_configuration(environment, "rules/*.yml")["scrape_configs"]
    targets = [target for job in jobs for config in job["static_configs"] for target in config["targets"]]
    assert targets == [f"127.0.0.1:{port}" for port in environment.values()]


def test_both_engines_are_one_job_told_apart_by_backend() -> None:
    jobs = {job["job_name"]: job for job in prometheus_configuration({}, "x")["scrape_configs"]}
    labels = [config["labels"]["backend"] for config in jobs["vllm"]["static_configs"]]
    assert labels == ["backend-a", "backend-b"]


def test_only_simulated_engines_have_simulated_devices() -> None:
    jobs = {
        job["job_name"]: job for job in prometheus_configuration({"PROFILE": "sim"}, "x")["scrape_configs"]
    }
    hosts = [config["labels"]["hostname"] for config in jobs["dcgm-exporter"]["static_configs"]]
    assert hosts == ["backend-a", "backend-b"]
    real = {job["job_name"] for job in prometheus_configuration({"PROFILE": "vllm"}, "x")["scrape_configs"]}
    assert "dcgm-exporter" not in real


@pytest.mark.service
def test_the_real_programs_accept_the_files(tmp_path: Path) -> None:
    assert main(["render", "--profile", "local", "--out", str(tmp_path)]) == 0
    for command in (
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")],
        ["amtool", "check-config", str(tmp_path / "alertmanager.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
