"""Puts every metric behind one Prometheus exposition; the only place that knows the exposition library."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from router_service.telemetry.aggregates import Counter, Gauge, Histogram, Labels

Encode = Callable[[Collector], bytes]

PIECE_LINES = 250
"""Lines that are written without letting the event loop do other work: well under a millisecond."""

_END = b"# EOF\n"
_SHORT = 1e6
"""Below it, Python writes a number as Go does."""


class Exposition:
    """All metrics as text, in pieces: a router of 1,000 backends has thousands of series."""

    def __init__(self, metrics: Iterable[Counter | Histogram | Gauge]) -> None:
        self._metrics = list(metrics)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def pieces(self, encode: Encode) -> Iterator[bytes]:
        """Yield the text that ``encode`` writes of all metrics. Values are those of the time of their piece."""
        for metric in self._metrics:
            if isinstance(metric, Histogram):
                yield encode(_One(metric.family())).removesuffix(_END)
            else:
                yield from _lines(metric, encode)
        yield encode(self._process)


class _One(Collector):
    """A collector of one family."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return [self._family]


def _lines(metric: Counter | Gauge, encode: Encode) -> Iterator[bytes]:
    yield encode(_One(metric.header())).removesuffix(_END)
    name, values = metric.metric.name, metric.values()
    order = sorted(range(len(metric.metric.labels)), key=metric.metric.labels.__getitem__)
    labels = [metric.metric.labels[index] for index in order]
    for start in range(0, len(values), PIECE_LINES):
        lines = [
            f"{name}{_label_text(labels, order, values_of)} {_number(value)}\n"
            for values_of, value in values[start : start + PIECE_LINES]
        ]
        yield "".join(lines).encode()


def _label_text(names: Sequence[str], order: Sequence[int], values: Labels) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{n}="{_escaped(values[i])}"' for n, i in zip(names, order, strict=True)) + "}"


@lru_cache(maxsize=8192)
def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if -_SHORT < value < _SHORT:
        return repr(float(value))
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]
