"""Learns a device's readings during work, from token generation. Pure: must not know NVML or engines.

It compares a reading with earlier readings of the same device, never with a table of GPUs: 70 W is idle on one
device and full load on another. Utilisation is not used, because a wedged kernel shows 100 %.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

LEARNT_READINGS = 120
ENOUGH_READINGS = 3
# A device counts as working above this point between its idle (0) and its working (1) median.
BUSY_SHARE = 0.3
SLOW_CLOCK_SHARE = 0.75
# NVML's and DCGM's bits: HW slowdown, SW thermal, HW thermal, HW power brake. A power cap (0x4) is normal.
THROTTLE_BITS = 0x8 | 0x20 | 0x40 | 0x80
SIGNALS = {
    "tensor_active_ratio": ("tensor activity", "{:.2f}"),
    "power_watts": ("power", "{:.0f} W"),
    "cpu_cores": ("CPU", "{:.2f} cores"),
}


@dataclass(frozen=True)
class Reading:
    """One reading of a device; None is a figure that the device does not report. A CPU engine has ``cpu_cores`` only.

    Watts, MHz, degrees Celsius, MiB; ratios from 0 to 1; ``cpu_cores`` is CPU seconds per second of all
    processes of the engine; ``throttle_reasons`` is NVML's bit mask; ``xid`` is the last error, 0 if there was none.
    """

    name: str = ""
    utilization_ratio: float | None = None
    tensor_active_ratio: float | None = None
    power_watts: float | None = None
    clock_mhz: float | None = None
    temperature_celsius: float | None = None
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    throttle_reasons: int | None = None
    xid: int | None = None
    cpu_cores: float | None = None


@dataclass(frozen=True)
class Baseline:
    """Medians while working and while idle, by field of :class:`Reading`. A field is absent until enough readings exist."""

    busy: Mapping[str, float] = field(default_factory=dict)
    idle: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Activity:
    """Whether the device works (None: unknown), and the reason."""

    busy: bool | None
    evidence: str


class Learner:
    """Keeps the latest working and idle readings and returns their medians."""

    def __init__(self) -> None:
        self._busy: deque[Reading] = deque(maxlen=LEARNT_READINGS)
        self._idle: deque[Reading] = deque(maxlen=LEARNT_READINGS)

    def learn(self, reading: Reading, *, at_work: bool) -> None:
        """Add a reading taken during generation, or while no request ran."""
        if at_work and (reading.throttle_reasons or 0) & THROTTLE_BITS:
            return  # A throttled device must not become the reference.
        (self._busy if at_work else self._idle).append(reading)

    def baseline(self) -> Baseline:
        """Return the medians learned so far."""
        return Baseline(_medians(self._busy), _medians(self._idle))


def _medians(readings: Sequence[Reading]) -> dict[str, float]:
    values = {
        name: [value for one in readings if (value := getattr(one, name)) is not None]
        for name in (*SIGNALS, "clock_mhz")
    }
    return {name: median(found) for name, found in values.items() if len(found) >= ENOUGH_READINGS}


def activity(recent: Sequence[Reading], baseline: Baseline) -> Activity:
    """Return whether the device works, by the first signal that it reports and that has a baseline."""
    for name, (word, form) in SIGNALS.items():
        values = [value for one in recent if (value := getattr(one, name)) is not None]
        at_work = baseline.busy.get(name)
        if not values or at_work is None:
            continue
        idle = baseline.idle.get(name, 0.0)
        now = fmean(values)
        said = f"{word} {form.format(now)} (at work {form.format(at_work)}, idle {form.format(idle)})"
        if at_work <= idle:
            continue  # A signal with equal medians separates nothing.
        return Activity((now - idle) / (at_work - idle) >= BUSY_SHARE, said)
    if not recent:
        return Activity(None, "the device reports nothing")
    return Activity(None, "the device's readings during work are not known yet")


def clocks_are_down(recent: Sequence[Reading], baseline: Baseline) -> str | None:
    """Return why the device counts as throttled, or None. If the device reports reasons, the clock must agree."""
    clocks = [one.clock_mhz for one in recent if one.clock_mhz is not None]
    at_work = baseline.busy.get("clock_mhz")
    if not clocks or at_work is None or fmean(clocks) >= SLOW_CLOCK_SHARE * at_work:
        return None
    reasons = [one.throttle_reasons for one in recent if one.throttle_reasons is not None]
    if reasons and not reasons[-1] & THROTTLE_BITS:
        return None
    why = f", reasons 0x{reasons[-1]:x}" if reasons else ""
    return f"clock {fmean(clocks):.0f} MHz (at work {at_work:.0f} MHz{why})"
