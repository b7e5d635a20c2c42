"""The agent's metrics and its log. Measures nothing itself."""

import logging
import sys
from collections.abc import Iterable, Sequence

import structlog
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric

from backend_agent.busy_baseline import Reading
from backend_agent.judgement import State
from backend_agent.warm_up import Round

MIB, MHZ = 2**20, 1e6
# Metric, help, field of the reading, factor to the metric's unit.
DEVICE_METRICS = (
    ("backend_device_utilization_ratio", "Utilisation as the device gives it; a wedged one says 1.",
     "utilization_ratio", 1.0),
    ("backend_device_tensor_active_ratio", "Share of cycles the tensor pipes are active.",
     "tensor_active_ratio", 1.0),
    ("backend_device_power_watts", "Power drawn by the engine's devices.", "power_watts", 1.0),
    ("backend_device_clock_hertz", "SM clock of the slowest device.", "clock_mhz", MHZ),
    ("backend_device_temperature_celsius", "Temperature of the hottest device.", "temperature_celsius", 1.0),
    ("backend_device_memory_used_bytes", "Device memory in use.", "memory_used_mib", MIB),
    ("backend_device_memory_bytes", "Device memory there is.", "memory_total_mib", MIB),
    ("backend_device_throttle_reasons", "NVML's bit mask of reasons for lower clocks.",
     "throttle_reasons", 1.0),
    ("backend_device_xid", "Last XID error; 0 for none.", "xid", 1.0),
    ("backend_device_cpu_cores", "CPU seconds per second of the engine's processes.", "cpu_cores", 1.0),
)  # fmt: skip


class DeviceCollector:
    """The last reading of the device; a figure it does not have has no series."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.reading: Reading | None = None

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        up = GaugeMetricFamily(
            "backend_device_up", "1 while the device says something, else 0.", labels=["backend"]
        )
        up.add_metric([self._backend], float(self.reading is not None))
        yield up
        for name, text, field, factor in DEVICE_METRICS:
            family = GaugeMetricFamily(name, text, labels=["backend"])
            value = getattr(self.reading, field, None)
            if value is not None:
                family.add_metric([self._backend], value * factor)
            yield family


class Metrics:
    """Every metric of the agent, in a registry of its own."""

    def __init__(self, backend: str) -> None:
        self.registry = CollectorRegistry()
        self._backend = backend
        self._state = Gauge(
            "backend_state",
            "1 for the state the backend is in, 0 for all others.",
            ["backend", "state"],
            registry=self.registry,
        )
        warmup = Gauge(
            "backend_warmup_seconds",
            "How long the last warm-up took, from the engine's first answer to ready.",
            ["backend"],
            registry=self.registry,
        )
        self.warmup_seconds = warmup.labels(backend)
        rounds = Gauge(
            "backend_warmup_first_token_seconds",
            "Slowest time to first token of the last warm-up's first, best and last round.",
            ["backend", "round"],
            registry=self.registry,
        )
        self._rounds = {which: rounds.labels(backend, which) for which in ("first", "best", "last")}
        self._device = DeviceCollector(backend)
        self.registry.register(self._device)

    def show_rounds(self, rounds: Sequence[Round]) -> None:
        """Show what the warm-up measured."""
        seconds = [one.first_token_seconds for one in rounds]
        for which, value in (("first", seconds[0]), ("best", min(seconds)), ("last", seconds[-1])):
            self._rounds[which].set(value)

    def show_device(self, reading: Reading | None) -> None:
        """Show the device as it was last read."""
        self._device.reading = reading

    def show_state(self, current: State) -> None:
        """Make exactly one state 1."""
        for state in State:
            self._state.labels(self._backend, state.value).set(state is current)


def configure_log() -> None:
    """Log JSON lines to stdout."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.format_exc_info,
            lambda _, __, event: {"service": "backend-agent", **event},
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
