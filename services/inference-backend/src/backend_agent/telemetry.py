"""The agent's metrics and its log. Takes no measurements itself."""

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric

from backend_agent.busy_baseline import Reading
from backend_agent.judgement import State
from backend_agent.warm_up import Round
from platform_contracts.log_lines import add_time, capture_library_log

MIB, MHZ = 2**20, 1e6
# Metric, help, field of the reading, factor to the metric's unit.
DEVICE_METRICS = (
    ("backend_device_utilization_ratio", "Utilisation that the device reports; a wedged device reports 1.",
     "utilization_ratio", 1.0),
    ("backend_device_tensor_active_ratio", "Share of cycles the tensor pipes are active.",
     "tensor_active_ratio", 1.0),
    ("backend_device_power_watts", "Power drawn by the engine's devices.", "power_watts", 1.0),
    ("backend_device_clock_hertz", "SM clock of the slowest device.", "clock_mhz", MHZ),
    ("backend_device_temperature_celsius", "Temperature of the hottest device.", "temperature_celsius", 1.0),
    ("backend_device_memory_used_bytes", "Device memory in use.", "memory_used_mib", MIB),
    ("backend_device_memory_bytes", "Total device memory.", "memory_total_mib", MIB),
    ("backend_device_throttle_reasons", "NVML's bit mask of reasons for lower clocks.",
     "throttle_reasons", 1.0),
    ("backend_device_xid", "Last XID error; 0 for none.", "xid", 1.0),
    ("backend_device_cpu_cores", "CPU seconds per second of the engine's processes.", "cpu_cores", 1.0),
)  # fmt: skip


class EngineStart(StrEnum):
    """The state of an engine before its first response."""

    AGENT_STARTED = "agent_started"  # the agent itself is new, so nothing is known
    PROCESS_ENDED = "process_ended"  # nothing listened on the engine's port
    WAS_SILENT = "was_silent"  # the engine did not answer for the limit


class DeviceCollector:
    """Exposes the last reading of the device; missing figures have no series."""

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self.reading: Reading | None = None

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of the last reading; the registry calls it."""
        up = GaugeMetricFamily(
            "backend_device_up", "1 while the device reports readings, else 0.", labels=["backend"]
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
    """All metrics of the agent, in a separate registry."""

    def __init__(self, backend: str) -> None:
        self.registry = CollectorRegistry()
        self._backend = backend
        self._state = Gauge(
            "backend_state",
            "1 for the backend's current state, 0 for the others.",
            ["backend", "state"],
            registry=self.registry,
        )
        warmup = Gauge(
            "backend_warmup_seconds",
            "Duration of the last warm-up, from the engine's first response until ready.",
            ["backend"],
            registry=self.registry,
        )
        self.warmup_seconds = warmup.labels(backend)
        rounds = Gauge(
            "backend_warmup_first_token_seconds",
            "Slowest time to first token in the first, best and last round of the last warm-up.",
            ["backend", "round"],
            registry=self.registry,
        )
        self._start_phases = _start_phases(self.registry)
        self._rounds = {which: rounds.labels(backend, which) for which in ("first", "best", "last")}
        self._engine = Gauge(
            "backend_engine_info",
            "1 for the engine that answered last: its version, model, the model file's digest, and its image.",
            ["backend", "version", "model", "model_file", "image"],
            registry=self.registry,
        )
        self._since = Gauge(
            "backend_state_since_seconds",
            "When the current state began, in seconds since the epoch.",
            ["backend"],
            registry=self.registry,
        )
        self._found = Gauge(
            "backend_engine_found_time_seconds",
            "When the engine that answers now answered first, in seconds since the epoch.",
            ["backend"],
            registry=self.registry,
        )
        started = Gauge(
            "backend_agent_start_time_seconds",
            "Start time of the agent, in seconds since the epoch.",
            ["backend"],
            registry=self.registry,
        )
        started.labels(backend).set_to_current_time()
        self._starts = Counter(
            "backend_engine_starts_total",
            "Engines that the agent found and warmed up, by what came before.",
            ["backend", "reason"],
            registry=self.registry,
        )
        for reason in EngineStart:
            self._starts.labels(backend, reason.value)
        self._device = DeviceCollector(backend)
        self.registry.register(self._device)

    def show_rounds(self, rounds: Sequence[Round]) -> None:
        """Set the metrics of the warm-up."""
        seconds = [one.first_token_seconds for one in rounds]
        for which, value in (("first", seconds[0]), ("best", min(seconds)), ("last", seconds[-1])):
            self._rounds[which].set(value)

    def show_start(self, seconds: Mapping[str, float]) -> None:
        """Set the durations of the phases of a start; a phase without one has no series."""
        self._start_phases.clear()
        for phase, took in seconds.items():
            self._start_phases.labels(self._backend, phase).set(took)

    def show_engine(self, version: str, model: str, model_file: str, image: str) -> None:
        """Set the engine that answers; the series of the one before is removed."""
        self._engine.clear()
        self._engine.labels(self._backend, version, model, model_file, image).set(1)
        self._found.labels(self._backend).set_to_current_time()

    def count_start(self, reason: EngineStart) -> None:
        """Count an engine that answers for the first time after ``reason``."""
        self._starts.labels(self._backend, reason.value).inc()

    def show_device(self, reading: Reading | None) -> None:
        """Set the device's last reading."""
        self._device.reading = reading

    def show_state(self, current: State) -> None:
        """Set the given state to 1, every other to 0, and the time of this change."""
        self._since.labels(self._backend).set_to_current_time()
        for state in State:
            self._state.labels(self._backend, state.value).set(state is current)


def _start_phases(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "backend_start_phase_seconds",
        "Duration of a phase of the engine's last start: weights, load (until its first response), warm_up.",
        ["backend", "phase"],
        registry=registry,
    )


def configure_log() -> None:
    """Log JSON lines to stdout."""
    capture_library_log("backend-agent")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            add_time,
            structlog.processors.format_exc_info,
            lambda _, __, event: {"service": "backend-agent", **event},
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
