"""Reads the device an engine runs on: NVML, a DCGM exporter's page, or the CPU time of its processes.

Each source returns a :class:`Reading`, or None if it has no data. None never means healthy.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from backend_agent.busy_baseline import Reading

ASK_SECONDS = 1.0
MIB = 2**20


class Device(Protocol):
    """A source of readings."""

    def read(self) -> Reading | None:
        """Return one reading, or None without data. Never raises; takes at most 1 s."""


class NvmlDevice:
    """The GPUs this process sees, through NVML (``nvidia-ml-py``). Several are combined into one reading."""

    def __init__(self, nvml: Any) -> None:
        """Args:
        nvml: the module ``pynvml``, or an object with its functions."""
        self._nvml = nvml
        self._handles: list[Any] | None = None
        self._events: Any = None
        self._xid = 0

    def read(self) -> Reading | None:
        try:
            if self._handles is None:
                self._open()
            self._take_events()
            return _together([self._one(handle) for handle in self._handles or []])
        except self._nvml.NVMLError:
            self._handles = None  # After a driver reset the old handles are invalid.
            return None

    def _open(self) -> None:
        nvml = self._nvml
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        self._events = nvml.nvmlEventSetCreate()
        for handle in handles:
            with contextlib.suppress(nvml.NVMLError_NotSupported):
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)
        self._handles = handles

    def _take_events(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError_Timeout):
            while True:
                self._xid = int(self._nvml.nvmlEventSetWait_v2(self._events, 0).eventData)

    def _one(self, handle: Any) -> Reading:
        nvml = self._nvml
        memory = self._asked(nvml.nvmlDeviceGetMemoryInfo, handle)
        use = self._asked(nvml.nvmlDeviceGetUtilizationRates, handle)
        milliwatts = self._asked(nvml.nvmlDeviceGetPowerUsage, handle)
        return Reading(
            name=str(self._asked(nvml.nvmlDeviceGetName, handle) or ""),
            utilization_ratio=None if use is None else use.gpu / 100,
            power_watts=None if milliwatts is None else milliwatts / 1000,
            clock_mhz=self._asked(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            temperature_celsius=self._asked(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            memory_used_mib=None if memory is None else memory.used / MIB,
            memory_total_mib=None if memory is None else memory.total / MIB,
            throttle_reasons=self._asked(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle),
            xid=self._xid,
        )

    def _asked(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Read one figure; None if the device does not report it, so that the others are kept."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError_NotSupported:
            return None


# Field of a reading -> (DCGM's series, factor).
DCGM_SERIES = {
    "utilization_ratio": ("DCGM_FI_DEV_GPU_UTIL", 0.01),
    "tensor_active_ratio": ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", 1.0),
    "power_watts": ("DCGM_FI_DEV_POWER_USAGE", 1.0),
    "clock_mhz": ("DCGM_FI_DEV_SM_CLOCK", 1.0),
    "temperature_celsius": ("DCGM_FI_DEV_GPU_TEMP", 1.0),
    "memory_used_mib": ("DCGM_FI_DEV_FB_USED", 1.0),
    "throttle_reasons": ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 1.0),
    "xid": ("DCGM_FI_DEV_XID_ERRORS", 1.0),
}
_FIELDS = {series: (name, factor) for name, (series, factor) in DCGM_SERIES.items()}
_FREE = "DCGM_FI_DEV_FB_FREE"


class DcgmDevice:
    """Reads a DCGM exporter: the devices whose series have all labels of ``wanted``.

    On Kubernetes the exporter's label ``pod`` names the pod that uses a device. A container has no other way to
    find out which of the node's devices its engine uses.
    """

    def __init__(self, url: str, wanted: Mapping[str, str]) -> None:
        self._url = url
        self._wanted = dict(wanted)
        # One client, because each new client reads the certificate store: 30 ms of CPU a second. It keeps no
        # connection, because an exporter that has restarted would fail the next reading.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(timeout=ASK_SECONDS, trust_env=False, limits=limits)

    def read(self) -> Reading | None:
        try:
            answer = self._http.get(self._url)
            answer.raise_for_status()
            return read_dcgm(answer.text, self._wanted)
        except (httpx.HTTPError, ValueError):
            return None


def read_dcgm(page: str, wanted: Mapping[str, str]) -> Reading | None:
    """Return the selected devices of a DCGM exporter's page as one reading; None if the page has none of them.

    Raises:
        ValueError: the page is not in Prometheus' text format.
    """
    found: dict[str, dict[str, Any]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if any(sample.labels.get(label) != value for label, value in wanted.items()):
                continue
            uuid = sample.labels.get("UUID", "")
            if sample.name in _FIELDS:
                name, factor = _FIELDS[sample.name]
                device = found.setdefault(uuid, {"name": sample.labels.get("modelName", "")})
                device[name] = sample.value * factor
            elif sample.name == _FREE:
                found.setdefault(uuid, {})["free"] = sample.value
    readings = []
    for device in found.values():
        free = device.pop("free", None)
        if free is not None and "memory_used_mib" in device:
            device["memory_total_mib"] = device["memory_used_mib"] + free
        for whole in ("throttle_reasons", "xid"):
            if whole in device:
                device[whole] = int(device[whole])
        readings.append(Reading(**device))
    return _together(readings)


def _together(readings: list[Reading]) -> Reading | None:
    """Combine tensor-parallel devices: add up power and memory, and take the slowest device for the other
    figures.
    """
    if len(readings) < 2:
        return readings[0] if readings else None

    def over(name: str, combine: Callable[[list[float]], float]) -> float | None:
        values = [value for one in readings if (value := getattr(one, name)) is not None]
        return combine(values) if len(values) == len(readings) else None

    reasons = [one.throttle_reasons for one in readings if one.throttle_reasons is not None]
    all_reasons = 0
    for mask in reasons:
        all_reasons |= mask
    return Reading(
        name=f"{len(readings)} × {readings[0].name}",
        utilization_ratio=over("utilization_ratio", min),
        tensor_active_ratio=over("tensor_active_ratio", min),
        power_watts=over("power_watts", sum),
        clock_mhz=over("clock_mhz", min),
        temperature_celsius=over("temperature_celsius", max),
        memory_used_mib=over("memory_used_mib", sum),
        memory_total_mib=over("memory_total_mib", sum),
        throttle_reasons=all_reasons if reasons else None,
        xid=max((one.xid for one in readings if one.xid is not None), default=None),
    )


class ProcessDevice:
    """Reads the CPU time of the process that listens on the engine's port and of its children."""

    def __init__(self, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._port = port
        self._clock = clock
        self._before: tuple[int, float, float] | None = None

    def read(self) -> Reading | None:
        """Return the cores used since the previous reading; None on the first call and while nothing listens."""
        before, self._before = self._before, None
        try:
            engine = self._listener(before[0] if before else None)
            if engine is None:
                return None
            spent = sum(_cpu_seconds(one) for one in (engine, *engine.children(recursive=True)))
        except psutil.Error:
            return None
        now = self._clock()
        self._before = (engine.pid, spent, now)
        if before is None or before[0] != engine.pid or now <= before[2] or spent < before[1]:
            return None
        return Reading(name="CPU", cpu_cores=(spent - before[1]) / (now - before[2]))

    def _listener(self, known: int | None) -> psutil.Process | None:
        if known is not None and psutil.pid_exists(known):
            return psutil.Process(known)
        for connection in psutil.net_connections("tcp"):
            if not connection.laddr or connection.status != psutil.CONN_LISTEN:
                continue
            if connection.laddr.port == self._port and connection.pid:
                return psutil.Process(connection.pid)
        return None


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


class NoDevice:
    """Reads nothing: without tokens the engine's state is `unknown` until the limit."""

    def read(self) -> Reading | None:
        return None


def device_of(kind: str, engine_port: int) -> Device:
    """Return the device source for ``kind``: auto, nvml, process, none, or dcgm:URL.

    ``dcgm:URL#pod=NAME`` reads only the series with that label. ``auto`` is NVML if the library finds a driver,
    else the engine's processes.

    Raises:
        ValueError: ``kind`` is none of these.
    """
    if kind.startswith("dcgm:"):
        url, _, wanted = kind.removeprefix("dcgm:").partition("#")
        return DcgmDevice(url, dict(pair.partition("=")[::2] for pair in wanted.split(",") if pair))
    if kind == "none":
        return NoDevice()
    if kind == "process":
        return ProcessDevice(engine_port)
    if kind not in ("auto", "nvml"):
        raise ValueError(f'--device: "{kind}" is not one of auto, nvml, process, none, dcgm:URL')
    import pynvml  # type: ignore[import-untyped]

    if kind == "auto":
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return ProcessDevice(engine_port)
    return NvmlDevice(pynvml)
