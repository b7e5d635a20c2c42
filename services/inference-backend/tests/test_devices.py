"""NVML, a DCGM exporter and the process table give one reading; missing data gives no reading."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from backend_agent.busy_baseline import Reading
from backend_agent.devices import DcgmDevice, NvmlDevice, ProcessDevice, device_of, read_dcgm
from harness.waiting import eventually


class FakeNvml:
    """The functions of ``pynvml`` that are used, with its own constants and errors."""

    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVMLError_Timeout = pynvml.NVMLError_Timeout
    NVML_CLOCK_SM = pynvml.NVML_CLOCK_SM
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    nvmlEventTypeXidCriticalError = pynvml.nvmlEventTypeXidCriticalError

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.lost = False
        self.events: list[int] = []
        self.inits = 0

    def nvmlInit(self) -> None:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        self.inits += 1

    def nvmlDeviceGetCount(self) -> int:
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None: ...

    def nvmlEventSetWait_v2(self, events: object, milliseconds: int) -> Any:
        if not self.events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return SimpleNamespace(eventData=self.events.pop(0))

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA L4"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=20 << 30, total=24 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 70_500 + handle * 1000

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return 2040 - handle * 100

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 61 + handle

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_one_gpu_is_read_in_the_units_of_a_reading_without_what_it_does_not_support() -> None:
    nvml = FakeNvml()
    nvml.events = [31, 79]
    assert NvmlDevice(nvml).read() == Reading(
        name="NVIDIA L4",
        utilization_ratio=0.97,
        power_watts=70.5,
        clock_mhz=2040.0,
        temperature_celsius=61.0,
        memory_used_mib=20 * 1024.0,
        memory_total_mib=24 * 1024.0,
        throttle_reasons=None,
        xid=79,
    )


def test_gpus_that_work_in_step_are_read_as_one_and_the_slowest_speaks() -> None:
    reading = NvmlDevice(FakeNvml(devices=2)).read()
    assert reading is not None
    assert reading.power_watts == 142.0
    assert reading.clock_mhz == 1940
    assert reading.temperature_celsius == 62


def test_a_gpu_that_is_lost_says_nothing_and_is_found_again() -> None:
    nvml = FakeNvml()
    device = NvmlDevice(nvml)
    assert device.read() is not None
    nvml.lost = True
    assert device.read() is None
    assert device.read() is None
    nvml.lost = False
    assert device.read() is not None
    assert nvml.inits == 2


DCGM = """# TYPE DCGM_FI_DEV_POWER_USAGE gauge
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-1",modelName="L4",pod="engine-0"} 70.5
DCGM_FI_DEV_POWER_USAGE{gpu="1",UUID="GPU-2",modelName="L4",pod="other"} 20
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1",modelName="L4",pod="engine-0"} 20000
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-1",modelName="L4",pod="engine-0"} 4000
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-1",modelName="L4",pod="engine-0"} 31
"""


def test_of_a_nodes_devices_only_the_pods_own_count() -> None:
    own = read_dcgm(DCGM, {"pod": "engine-0"})
    assert own == Reading(
        name="L4", power_watts=70.5, memory_used_mib=20000.0, memory_total_mib=24000.0, xid=31
    )
    assert read_dcgm(DCGM, {"pod": "nobody"}) is None
    both = read_dcgm(DCGM, {})
    assert both is not None
    assert both.power_watts == 90.5


def test_an_exporter_that_is_gone_says_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert DcgmDevice(f"http://127.0.0.1:{port}/metrics", {}).read() is None


LISTENER = r"""
import socket, subprocess, sys, time
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
burn = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
child = subprocess.Popen([sys.executable, "-c", burn])
sys.stdin.read()
child.kill()
time.sleep(60)
"""


@pytest.fixture
def listener() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    with subprocess.Popen(
        [sys.executable, "-c", LISTENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def test_the_cpu_time_of_an_engine_is_that_of_its_workers_too(
    listener: tuple["subprocess.Popen[str]", int],
) -> None:
    process, port = listener
    device = ProcessDevice(port)
    assert device.read() is None, "one look gives no rate"

    def cores() -> float:
        time.sleep(1.0)
        reading = device.read()
        return -1.0 if reading is None or reading.cpu_cores is None else reading.cpu_cores

    eventually(lambda: cores() > 0.2, "the worker's loop is seen")
    assert process.stdin is not None
    process.stdin.close()
    eventually(lambda: 0 <= cores() < 0.1, "its end is seen")


def test_an_engine_that_is_gone_says_nothing() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert ProcessDevice(port).read() is None


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="this machine has a GPU")
def test_without_a_driver_the_processes_are_looked_at() -> None:
    assert isinstance(device_of("auto", 1), ProcessDevice)
    assert NvmlDevice(pynvml).read() is None


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(ValueError, match='"gpu" is not one of auto, nvml'):
        device_of("gpu", 1)
