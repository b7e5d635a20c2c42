"""A simulated GPU with DCGM's metric names: busy while the engine works, idle otherwise, faulty on command."""

import random
import time
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from engine_simulator.engine import Engine
from engine_simulator.faults import Faults

IDLE_WATTS, BUSY_WATTS = 28.0, 210.0
IDLE_MHZ, BUSY_MHZ, THROTTLED_MHZ = 210.0, 1_980.0, 600.0
MEMORY_MIB = 24_576.0
XID_NOISE = 31


class Device:
    """One simulated GPU. Values have noise from a seed, so that tests cannot match them exactly."""

    def __init__(self, engine: Engine, faults: Faults, seed: int) -> None:
        self._engine = engine
        self._faults = faults
        self._random = random.Random(seed)
        self._uuid = f"GPU-{seed:08x}-0000-0000-0000-000000000000"

    def reading(self) -> dict[str, Any] | None:
        """Return the current telemetry; None while it is missing.

        ``utilization_ratio``, ``tensor_active_ratio`` from 0 to 1; watts, MHz, degrees, MiB. A wedge shows the
        pattern of real devices: utilisation 100 % at idle power.
        """
        if "telemetry_silent" in self._faults.active:
            return None
        active = self._faults.active
        wedged = "wedge" in active
        busy = self._engine.busy
        throttled = "throttled" in active
        noise = self._random.uniform(0.97, 1.03)
        clock = (THROTTLED_MHZ if throttled else BUSY_MHZ) if busy or wedged else IDLE_MHZ
        watts = BUSY_WATTS * (0.55 if throttled else 1.0) if busy else IDLE_WATTS
        return {
            "name": "Simulated GPU 24GB",
            "uuid": self._uuid,
            "utilization_ratio": 1.0 if wedged else (0.96 if busy else 0.0),
            "tensor_active_ratio": (0.31 * noise if busy else 0.0),
            "sm_active_ratio": (0.82 * noise if busy else 0.0),
            "power_watts": watts * noise,
            "sm_clock_mhz": clock,
            "memory_clock_mhz": 6_250.0,
            "temperature_celsius": (68.0 if busy else 41.0) * noise,
            "memory_used_mib": MEMORY_MIB * (0.35 + 0.55 * self._engine.kv_usage),
            "memory_total_mib": MEMORY_MIB,
            "xid": XID_NOISE if "xid_noise" in active else 0,
            "throttle_reasons": 0x8 if throttled else 0,
            "at": time.time(),
        }


_FIELDS = (
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", "utilization_ratio", 100.0),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", "power_watts", 1.0),
    ("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", "sm_clock_mhz", 1.0),
    ("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", "memory_clock_mhz", 1.0),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", "temperature_celsius", 1.0),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", "memory_used_mib", 1.0),
    ("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", "xid", 1.0),
    (
        "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS",
        "Current clock throttle reasons (bitmask).",
        "throttle_reasons",
        1.0,
    ),
    (
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "Ratio of time the graphics engine is active.",
        "utilization_ratio",
        1.0,
    ),
    ("DCGM_FI_PROF_SM_ACTIVE", "Ratio of cycles an SM has at least 1 warp assigned.", "sm_active_ratio", 1.0),
    (
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "Ratio of cycles the tensor pipe is active.",
        "tensor_active_ratio",
        1.0,
    ),
)
_LABELS = ("gpu", "UUID", "device", "modelName", "hostname")


class _Devices:
    def __init__(self, readings: list[dict[str, Any]]) -> None:
        self._readings = readings

    def collect(self) -> list[Metric]:
        families: list[Metric] = []
        for name, help_, key, scale in _FIELDS:
            family = GaugeMetricFamily(name, help_, labels=_LABELS)
            for index, reading in enumerate(self._readings):
                labels = (str(index), reading["uuid"], f"nvidia{index}", reading["name"], "simulated")
                family.add_metric(labels, reading[key] * scale)
            families.append(family)
        free = GaugeMetricFamily("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", labels=_LABELS)
        for index, reading in enumerate(self._readings):
            labels = (str(index), reading["uuid"], f"nvidia{index}", reading["name"], "simulated")
            free.add_metric(labels, reading["memory_total_mib"] - reading["memory_used_mib"])
        return [*families, free]


def dcgm_text(readings: list[dict[str, Any]]) -> bytes:
    """Return the response of dcgm-exporter for these devices."""
    registry = CollectorRegistry()
    registry.register(_Devices(readings))
    return generate_latest(registry)
