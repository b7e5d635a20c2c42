"""Puts every metric behind one Prometheus registry; the only place that knows the exposition library."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from router_service.telemetry.aggregates import Counter, Gauge, Histogram


class _Families(Collector):
    def __init__(self, metrics: Iterable[Counter | Histogram | Gauge]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            yield metric.family()


def make_registry(metrics: Iterable[Counter | Histogram | Gauge]) -> CollectorRegistry:
    """A registry of these metrics and of the process's own."""
    registry = CollectorRegistry()
    registry.register(_Families(metrics))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
