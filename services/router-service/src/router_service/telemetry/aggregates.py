"""Counters and histograms as plain dictionaries, which prometheus_client reads when it is scraped.

prometheus_client's own types lock on each observation: a dozen per request would cost more than the routing decision.
A dictionary and a bisection cost less. One thread (the event loop) writes and reads.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.samples import Exemplar

from router_service.telemetry import names

Labels = tuple[str, ...]


class Counter:
    """Totals by label values."""

    __slots__ = ("metric", "totals")

    def __init__(self, metric: names.Metric) -> None:
        self.metric = metric
        self.totals: dict[Labels, float] = {}

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        """Add ``amount`` to the series of ``labels``, given in the metric's order."""
        totals = self.totals
        totals[labels] = totals.get(labels, 0.0) + amount

    def values(self) -> list[tuple[Labels, float]]:
        """Return the total of every series."""
        return list(self.totals.items())

    def header(self) -> Metric:
        """Return the family without series. A name without `_total` cannot be typed a counter in its format."""
        metric = self.metric
        kind = CounterMetricFamily if metric.name.endswith("_total") else UnknownMetricFamily
        return kind(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)


class Series:
    """One histogram series: counts per bucket, sum, latest exemplar per bucket."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, tuple[str, float, float]] = {}

    def observe(self, value: float, trace_id: str = "", at: float = 0.0) -> None:
        """Count ``value``; with a ``trace_id``, store it as its bucket's exemplar."""
        index = bisect_left(self.bounds, value)
        self.counts[index] += 1
        self.sum += value
        if trace_id:
            self.exemplars[index] = (trace_id, value, at)


class Histogram:
    """Series by label values."""

    __slots__ = ("metric", "series")

    def __init__(self, metric: names.Metric) -> None:
        self.metric = metric
        self.series: dict[Labels, Series] = {}

    def of(self, labels: Labels = ()) -> Series:
        """Return the series of ``labels``; create it if it is new."""
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = Series(self.metric.buckets)
        return series

    def family(self) -> Metric:
        """Return the family for prometheus_client, with the exemplars that exist."""
        metric = self.metric
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, series in self.series.items():
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            total = 0
            for index, count in enumerate(series.counts):
                total += count
                bound = str(series.bounds[index]) if index < len(series.bounds) else "+Inf"
                seen = series.exemplars.get(index)
                if seen is None:
                    buckets.append((bound, total))
                else:
                    buckets.append((bound, total, Exemplar({"trace_id": seen[0]}, seen[1], seen[2])))
            family.add_metric(labels, buckets, series.sum)
        return family


class Gauge:
    """A gauge, or a total counted elsewhere, read when scraped. ``read`` returns (label values, value) pairs."""

    __slots__ = ("metric", "read")

    def __init__(self, metric: names.Metric, read: Callable[[], Iterable[tuple[Labels, float]]]) -> None:
        self.metric = metric
        self.read = read

    def values(self) -> list[tuple[Labels, float]]:
        """Read the value of every series."""
        return list(self.read())

    def header(self) -> Metric:
        """Return the family without series."""
        metric = self.metric
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        return kind(metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
