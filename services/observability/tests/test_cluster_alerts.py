"""Every alert about the cluster fires on its condition and stays silent otherwise, as run by promtool."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.rules.alert import RUNBOOKS, rule_group
from observability.rules.cluster_alerts import cluster_alerts
from observability.rules.scrape_cluster import CLUSTER_JOBS, cluster_configuration
from observability.rules.time_scale import REAL_TIME

ALERTS = {alert.name: alert for alert in cluster_alerts()}
POD = 'namespace="llm",pod="p"'
CONTAINER = f'{POD},container="c"'
PHASE = f'kube_pod_status_phase{{{POD},phase="Pending"}}'
CONDITION = 'kube_node_status_condition{{node="n",condition="{}",status="true"}}'
VOLUME = 'kubelet_volume_stats_{}{{namespace="llm",persistentvolumeclaim="v"}}'
DISK = 'node_filesystem_{}_bytes{{instance="i",node="n",mountpoint="/",fstype="{}"}}'
GPUS = 'kube_node_status_{}{{node="n",resource="nvidia_com_gpu"}}'
HPA = 'kube_horizontalpodautoscaler_{}{{namespace="llm",horizontalpodautoscaler="h"}}'
RESTARTS = f"kube_pod_container_status_restarts_total{{{CONTAINER}}}"
KILLED = f'kube_pod_container_status_last_terminated_reason{{{{{CONTAINER},reason="{{}}"}}}}'
LOOPING = f'kube_pod_container_status_waiting_reason{{{{{CONTAINER},reason="{{}}"}}}}'
PRESENT = {
    'kube_pod_info{pod="p"}': "1x240",
    'container_memory_working_set_bytes{pod="p"}': "1x240",
    DISK.format("avail", "xfs"): "1x240",
}
DAY = 86400

Series = dict[str, str]
# 30 s between values, asked after an hour
CLAIMS: dict[str, tuple[list[Series], list[Series]]] = {
    "ContainerOutOfMemory": (
        [
            {RESTARTS: "0x100 1x140", KILLED.format("OOMKilled"): "_x100 1x140"},
            # A worker inside the container is killed: the container itself goes on.
            {f"container_oom_events_total{{{CONTAINER}}}": "0x110 1x130"},
        ],
        [
            {RESTARTS: "0x100 1x140", KILLED.format("Error"): "_x100 1x140"},
            {RESTARTS: "1x240", KILLED.format("OOMKilled"): "1x240"},  # long ago
        ],
    ),
    "PodCrashLooping": (
        # Between two waits the container runs for a moment.
        [{LOOPING.format("CrashLoopBackOff"): "1x4 _x3 " * 30}],
        [{LOOPING.format("ContainerCreating"): "1x240"}, {LOOPING.format("CrashLoopBackOff"): "1x60 _x180"}],
    ),
    "PodPending": ([{PHASE: "1x240"}], [{PHASE: "0x240"}, {PHASE: "0x100 1x140"}]),
    "AutoscalerAtMaximum": (
        [{HPA.format("status_desired_replicas"): "4x240", HPA.format("spec_max_replicas"): "4x240"}],
        [
            {HPA.format("status_desired_replicas"): "3x240", HPA.format("spec_max_replicas"): "4x240"},
            # An autoscaler that may only keep one replica is always at its maximum.
            {HPA.format("status_desired_replicas"): "1x240", HPA.format("spec_max_replicas"): "1x240"},
        ],
    ),
    "NodeUnderPressure": (
        [{CONDITION.format("MemoryPressure"): "1x240"}, {CONDITION.format("DiskPressure"): "1x240"}],
        [{CONDITION.format("MemoryPressure"): "0x240"}, {CONDITION.format("Ready"): "1x240"}],
    ),
    "NodeNotReady": (
        [{CONDITION.format("Ready"): "1x60 0x180"}],
        [{CONDITION.format("Ready"): "1x240"}, {CONDITION.format("Ready"): "1x113 0x4 1x120"}],
    ),
    "NodeFilesystemFull": (
        [{DISK.format("avail", "xfs"): "5x240", DISK.format("size", "xfs"): "100x240"}],
        [
            {DISK.format("avail", "xfs"): "15x240", DISK.format("size", "xfs"): "100x240"},
            {DISK.format("avail", "tmpfs"): "0x240", DISK.format("size", "tmpfs"): "100x240"},
        ],
    ),
    "NodeGpuUnallocatable": (
        [{GPUS.format("capacity"): "4x240", GPUS.format("allocatable"): "3x240"}],
        [{GPUS.format("capacity"): "4x240", GPUS.format("allocatable"): "4x240"}],
    ),
    "VolumeFull": (
        [
            {VOLUME.format("available_bytes"): "9x240", VOLUME.format("capacity_bytes"): "100x240"},
            {VOLUME.format("inodes_free"): "9x240", VOLUME.format("inodes"): "100x240"},
        ],
        [
            {VOLUME.format("available_bytes"): "11x240", VOLUME.format("capacity_bytes"): "100x240"},
            # Some file systems have no fixed number of inodes and report none.
            {VOLUME.format("inodes_free"): "0x240", VOLUME.format("inodes"): "0x240"},
        ],
    ),
    "CertificateExpires": (
        [
            {'certmanager_certificate_expiration_timestamp_seconds{namespace="llm",name="c"}': f"{5 * DAY}x240"},
            {'envoy_server_days_until_first_cert_expiring{job="edge-gateway",instance="e"}': "3x240"},
            {'kubelet_certificate_manager_client_ttl_seconds{instance="n"}': f"{2 * DAY}x240"},
        ],
        [
            {'certmanager_certificate_expiration_timestamp_seconds{namespace="llm",name="c"}': f"{29 * DAY}x240"},
            # Envoy without any certificate says 2^32 - 1; a kubelet that does not rotate says infinity.
            {'envoy_server_days_until_first_cert_expiring{job="edge-gateway",instance="e"}': "4294967295x240"},
            {'kubelet_certificate_manager_client_ttl_seconds{instance="n"}': " ".join(["Inf"] * 240)},
        ],
    ),
    "ClusterSignalsMissing": (
        [{name: value for name, value in PRESENT.items() if name != one} for one in PRESENT],
        [PRESENT],
    ),
}  # fmt: skip


def test_every_alert_has_a_claim_and_every_claim_an_alert() -> None:
    assert set(CLAIMS) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_it_fires_on_its_claim_and_is_quiet_beside_it(name: str, tmp_path: Path) -> None:
    rule = next(r for r in cluster_group()["rules"] if r["alert"] == name)
    # Labels of series are not compared, only whether the alert fires.
    counted = {"alert": name, "expr": f"count({rule['expr']}) > 0", "for": rule["for"]}
    firing, quiet = CLAIMS[name]
    tests = [
        {
            "interval": "30s",
            "input_series": [{"series": key, "values": value.strip()} for key, value in series.items()],
            "alert_rule_test": [
                {
                    "alertname": name,
                    "eval_time": "59m",
                    "exp_alerts": [{"exp_labels": {}}] if fires else [],
                }
            ],
        }
        for fires, cases in ((True, firing), (False, quiet))
        for series in cases
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [counted]}]}))
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_every_label_in_its_text_is_a_label_of_its_expression(name: str) -> None:
    alert = ALERTS[name]
    used = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))
    given = {word for group in re.findall(r"by \(([^)]*)\)", alert.expression) for word in group.split(", ")}
    given |= set(re.findall(r'label_replace\(.*?, "(\w+)", "', alert.expression))
    assert used <= given


def test_prometheus_keeps_every_series_that_an_alert_reads() -> None:
    jobs = {job["job_name"]: job for job in cluster_configuration("x")["scrape_configs"]}
    patterns = [
        re.compile(step["regex"])
        for name in CLUSTER_JOBS
        for step in jobs[name]["metric_relabel_configs"]
        if step["action"] == "keep"
    ]
    read = {
        name
        for alert in ALERTS.values()
        for name in re.findall(r"\b(?:kube|container|node|kubelet)_\w+", alert.expression)
    }
    assert len(read) > 15
    assert [name for name in read if not any(pattern.fullmatch(name) for pattern in patterns)] == []


def test_the_kubelet_is_asked_with_the_pods_own_token_over_a_verified_connection() -> None:
    jobs = {job["job_name"]: job for job in cluster_configuration("x")["scrape_configs"]}
    for name in ("kubelet", "cadvisor"):
        assert jobs[name]["scheme"] == "https"
        assert jobs[name]["authorization"]["credentials_file"].endswith("/serviceaccount/token")
        assert jobs[name]["tls_config"]["ca_file"].endswith("/serviceaccount/ca.crt")
        assert jobs[name]["kubernetes_sd_configs"] == [{"role": "node"}]
    assert jobs["kube-state-metrics"]["honor_labels"]
    assert jobs["cadvisor"]["honor_labels"]


def cluster_group() -> dict[str, Any]:
    """The alerts as the cluster's Prometheus loads them."""
    return rule_group("cluster", cluster_alerts(), REAL_TIME, RUNBOOKS)
