"""Alerts about the Kubernetes cluster: pods, nodes, volumes, devices, certificates and autoscalers.

They use series of kube-state-metrics, the kubelet with cAdvisor, the node exporter, cert-manager and Envoy. A local
stack lacks the first three, so these alerts are rendered only for a cluster. They cover every namespace, because a
failed device plugin or DNS server also stops the platform.
"""

from observability.rules.alert import Alert
from observability.rules.time_scale import REAL_TIME, TimeScale

FULL_SHARE = 0.1
"""Free share of a volume or file system below which it counts as nearly full."""

CERTIFICATE_DAYS = 14
"""cert-manager renews a 90-day certificate 30 days before it expires. At 14 days, renewal has failed for weeks."""

KUBELET_CERTIFICATE_DAYS = 7

_POD = "by (namespace, pod, container)"
_CONDITION = "max by (node, condition) (kube_node_status_condition"
_GPU = 'resource="nvidia_com_gpu"'


def cluster_alerts(scale: TimeScale = REAL_TIME) -> list[Alert]:
    """Return every alert about the cluster."""
    return [*_pods(scale), *_nodes(), *_resources(), *_signals()]


def _pods(scale: TimeScale) -> list[Alert]:
    window = scale.window(600)
    restarts = f"sum {_POD} (increase(kube_pod_container_status_restarts_total[{window}]))"
    killed = (
        f'max {_POD} (kube_pod_container_status_last_terminated_reason{{reason="OOMKilled"}}) == 1'
        f" and on (namespace, pod, container) {restarts} > 0"
    )
    # If the container survives the kill of one of its processes (an engine worker), only the kernel counts the kill.
    kernel = f'sum {_POD} (increase(container_oom_events_total{{container!=""}}[{window}])) > 0'
    return [
        Alert(
            "ContainerOutOfMemory", f"({killed}) or ({kernel})", 0, "ticket",
            "The kernel killed {{ $labels.container }} of {{ $labels.pod }} because it ran out of memory",
            "The container reached its memory limit. If it was an engine, its requests failed or were retried.",
        ),
        Alert(
            "PodCrashLooping",
            f'max {_POD} (max_over_time(kube_pod_container_status_waiting_reason{{reason="CrashLoopBackOff"}}'
            f"[{scale.window(300)}])) == 1",
            300, "ticket",
            "{{ $labels.container }} of {{ $labels.pod }} crashes repeatedly",
            "The kubelet waits longer before each restart. The log of the previous container contains the reason.",
        ),
        Alert(
            "PodPending",
            'max by (namespace, pod) (kube_pod_status_phase{phase="Pending"}) == 1',
            900, "ticket",
            "{{ $labels.pod }} in {{ $labels.namespace }} has been pending for 15 minutes",
            "The scheduler found no node, an image or volume is missing, or an init container does not finish.",
        ),
        Alert(
            "AutoscalerAtMaximum",
            "max by (namespace, horizontalpodautoscaler) "
            "(kube_horizontalpodautoscaler_status_desired_replicas)"
            " >= on (namespace, horizontalpodautoscaler) max by (namespace, horizontalpodautoscaler) "
            "(kube_horizontalpodautoscaler_spec_max_replicas > 1)",
            900, "ticket",
            "{{ $labels.horizontalpodautoscaler }} has wanted its maximum of {{ $value }} replicas for 15 minutes",
            "The autoscaler cannot add replicas. With more load, requests are queued or refused.",
        ),
    ]  # fmt: skip


def _nodes() -> list[Alert]:
    free = "node_filesystem_avail_bytes / node_filesystem_size_bytes"
    disks = '{fstype!~"tmpfs|overlay|squashfs|ramfs|nsfs"}'
    free = free.replace("_bytes", f"_bytes{disks}")
    return [
        Alert(
            "NodeUnderPressure",
            f'{_CONDITION}{{condition=~"MemoryPressure|DiskPressure|PIDPressure",status="true"}}) == 1',
            120, "ticket",
            "{{ $labels.node }} reports {{ $labels.condition }}",
            "The kubelet evicts pods from this node and accepts no new ones until the pressure ends.",
        ),
        Alert(
            "NodeNotReady",
            f'{_CONDITION}{{condition="Ready",status="true"}}) == 0',
            300, "page",
            "{{ $labels.node }} is not ready",
            "The node does not report to the control plane. Its pods are unreachable, or will be evicted.",
        ),
        Alert(
            "NodeFilesystemFull",
            f"min by (instance, node, mountpoint) ({free}) < {FULL_SHARE}",
            300, "ticket",
            "{{ $labels.mountpoint }} on {{ $labels.instance }} has {{ $value | humanizePercentage }} left",
            "Images, logs and emptyDir volumes share this file system. Below 10 % the kubelet starts to evict pods.",
        ),
        Alert(
            "NodeGpuUnallocatable",
            f"max by (node) (kube_node_status_capacity{{{_GPU}}})"
            f" - on (node) max by (node) (kube_node_status_allocatable{{{_GPU}}}) > 0",
            120, "ticket",
            "{{ $value }} of the GPUs of {{ $labels.node }} cannot be allocated",
            "The device plugin reports an unhealthy device. An engine on it may fail, and no new engine can start on it.",
        ),
    ]  # fmt: skip


def _resources() -> list[Alert]:
    volume = "max by (namespace, persistentvolumeclaim) (kubelet_volume_stats_{})"

    def left(kind: str) -> str:
        free, size = {
            "bytes": ("available_bytes", "capacity_bytes"),
            "inodes": ("inodes_free", "inodes"),
        }[kind]
        return f"{volume.format(free)} / {volume.format(size)}"

    day = 24 * 3600
    return [
        Alert(
            "VolumeFull",
            f"{left('bytes')} < {FULL_SHARE} or {left('inodes')} < {FULL_SHARE}",
            300, "ticket",
            "Volume {{ $labels.persistentvolumeclaim }} has {{ $value | humanizePercentage }} of its space or inodes left",
            "On a full volume, Prometheus, Loki, Tempo or Redis cannot write, and model weights cannot be downloaded.",
        ),
        Alert(
            "CertificateExpires",
            "label_replace(min by (namespace, name) (certmanager_certificate_expiration_timestamp_seconds) - time()"
            f' < {CERTIFICATE_DAYS * day}, "certificate", "$1", "name", "(.*)")'
            ' or label_replace(min by (instance) (envoy_server_days_until_first_cert_expiring{job="edge-gateway"})'
            f' * {day} < {CERTIFICATE_DAYS * day}, "certificate", "of $1", "instance", "(.*)")'
            " or label_replace(min by (instance) (kubelet_certificate_manager_client_ttl_seconds)"
            f' < {KUBELET_CERTIFICATE_DAYS * day}, "certificate", "of the kubelet $1", "instance", "(.*)")',
            600, "ticket",
            "Certificate {{ $labels.certificate }} expires in {{ $value | humanizeDuration }}",
            "Its renewal has failed. After it expires, clients cannot connect or the node cannot report.",
        ),
    ]  # fmt: skip


def _signals() -> list[Alert]:
    sources = (
        ("kube_pod_info", "kube-state-metrics"),
        ("container_memory_working_set_bytes", "cAdvisor"),
        ("node_filesystem_avail_bytes", "the node exporter"),
    )
    missing = " or ".join(
        f'label_replace(absent({metric}), "source", "{source}", "", "")' for metric, source in sources
    )
    return [
        Alert(
            "ClusterSignalsMissing", missing, 600, "ticket",
            "Prometheus has no series of {{ $labels.source }}",
            "Alerts about pods and nodes cannot fire without these series.",
        ),
    ]  # fmt: skip
