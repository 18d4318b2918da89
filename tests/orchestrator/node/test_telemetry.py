"""What an agent tells of its node's hardware: the host's own files, and a driver that answers as NVIDIA's does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from orchestrator.node.gpu_meter import SLOWED_BY, GpuMeter, open_gpu_meter
from orchestrator.node.host_meter import HostMeter
from orchestrator.node.telemetry import Telemetry, start_telemetry
from tests.orchestrator.node.waiting import wait_for


class Driver:
    """NVML of two H200, of which a test says what they meet. What NVML calls by a name it has by that name."""

    NVMLError = pynvml.NVMLError
    NVML_NVLINK_MAX_LINKS = 3

    def __init__(self, **lacks: str) -> None:
        self.xids: list[tuple[str, int]] = []
        self.errors = {"GPU-a": 2, "GPU-b": 0}
        self.clocks = 0
        self.failed_rows = 0
        self.lacks = lacks

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def nvmlInit(self) -> None:
        if "driver" in self.lacks:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlEventSetCreate(self) -> str:
        if "events" in self.lacks:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: str, kinds: int, events: str) -> None:
        assert (kinds, events) == (pynvml.nvmlEventTypeXidCriticalError, "events")

    def nvmlEventSetWait_v2(self, events: str, timeout_ms: int) -> SimpleNamespace:
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        device, xid = self.xids.pop(0)
        return SimpleNamespace(device=device, eventData=xid)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 651_500

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return 1980

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(gpu=98, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=60 * 2**30, total=141 * 2**30)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.clocks

    def nvmlDeviceGetTotalEccErrors(self, handle: str, kind: int, counter: int) -> int:
        if "ecc" in self.lacks:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return self.errors[handle]

    def nvmlDeviceGetRemappedRows(self, handle: str) -> tuple[int, int, int, int]:
        return 0, 4, 0, self.failed_rows

    def nvmlDeviceGetNvLinkErrorCounter(self, handle: str, link: int, counter: int) -> int:
        if link == 2:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 10 + link


def meter_on(driver: Driver) -> GpuMeter:
    meter = open_gpu_meter(["GPU-a", "GPU-b"], driver)
    assert meter is not None
    return meter


def test_what_a_gpu_tells():
    first, second = meter_on(Driver()).look()
    assert (first.uuid, second.uuid) == ("GPU-a", "GPU-b")
    assert (first.power_w, first.temperature_c, first.sm_clock_mhz, first.used_share) == (651.5, 61.0, 1980, 0.98)
    assert (first.memory_used_bytes, first.memory_total_bytes) == (60 * 2**30, 141 * 2**30)
    assert (first.uncorrected_errors, first.remapped_rows, first.nvlink_replays) == (2, 4, 21)
    assert (first.slowed_by, first.trouble) == ((), "")


def test_why_its_clocks_are_low_is_told_in_words_and_idleness_is_no_reason():
    driver = Driver()
    driver.clocks = pynvml.nvmlClocksEventReasonGpuIdle | pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonHwSlowdown
    assert meter_on(driver).look()[0].slowed_by == ("its power limit", "the hardware")
    assert all(hasattr(pynvml, f"nvmlClocksEventReason{name}") for name in SLOWED_BY)


def test_what_a_driver_does_not_tell_is_left_out():
    levels = meter_on(Driver(ecc="", events="")).look()[0]
    assert (levels.uncorrected_errors, levels.power_w, levels.trouble) == (None, 651.5, "")


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (lambda driver: driver.xids.append(("GPU-b", 79)), "Xid 79, the GPU has fallen off the bus"),
        (lambda driver: driver.xids.extend([("GPU-b", 48), ("GPU-b", 79)]), "Xid 48, an uncorrectable memory error"),
        (lambda driver: driver.xids.append(("GPU-b", 31)), ""),
        (lambda driver: driver.errors.update({"GPU-b": 1}), "1 uncorrectable error of its memory"),
        (lambda driver: setattr(driver, "failed_rows", 1), "a row of its memory could not be remapped"),
    ],
    ids=["fell off the bus", "the first counts", "a program's own fault", "memory", "rows"],
)
def test_what_no_program_brings_about_is_trouble_until_other_workers_begin(happens: Callable[[Driver], None], told: str):
    driver = Driver()
    meter = meter_on(driver)
    happens(driver)
    while driver.xids:
        assert meter.wait(0.0)
    assert meter.look()[1].trouble == told
    driver.failed_rows = 0
    meter.begin_anew()
    assert meter.look()[1].trouble == ""


def test_without_gpus_or_a_driver_there_is_nothing_to_ask(caplog: pytest.LogCaptureFixture):
    assert open_gpu_meter([], Driver()) is None
    assert open_gpu_meter(["GPU-a"], Driver(driver="")) is None
    assert "nothing is known of the GPUs' health: Driver Not Loaded" in caplog.text


STAT = "cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n"
NETWORKS = """Inter-|   Receive
 face |bytes
    lo: 9999 1 0 0 0 0 0 0 9999 1 0 0 0 0 0 0
  eth0: {received} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0
"""


def test_a_host_tells_what_it_did_since_the_last_look(tmp_path: Path):
    def now(*, busy: int, idle: int, received: int, sent: int) -> None:
        (tmp_path / "proc/net").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/stat").write_text(STAT.format(busy=busy, idle=idle))
        (tmp_path / "proc/net/dev").write_text(NETWORKS.format(received=received, sent=sent))
        (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")

    meter = HostMeter(tmp_path, root=tmp_path)
    now(busy=100, idle=100, received=0, sent=0)
    first = meter.look(10.0)
    now(busy=175, idle=125, received=5000, sent=1000)
    second = meter.look(12.0)
    assert (first.cpu_share, first.received_bytes_s, first.memory_available_bytes, first.memory_total_bytes) == (
        None,
        None,
        409_600,
        1_024_000,
    )
    assert (second.cpu_share, second.received_bytes_s, second.sent_bytes_s) == (0.75, 2500.0, 500.0)
    assert 0 < second.disk_free_bytes <= second.disk_total_bytes


def test_this_host_is_looked_at_by_a_thread_that_ends(tmp_path: Path):
    telemetry = start_telemetry((), tmp_path)
    levels = wait_for(lambda: telemetry.newest, "the first look")
    telemetry.close()
    telemetry.thread.join(10)
    assert not telemetry.thread.is_alive()
    assert levels.gpus == ()
    assert levels.host.memory_total_bytes > 0


def test_a_driver_that_never_answers_holds_nobody_up(tmp_path: Path):
    stuck = threading.Event()
    telemetry = Telemetry(HostMeter(tmp_path), lambda: stuck.wait() and None, every_s=0.01)
    telemetry.thread.start()
    assert telemetry.newest is None
    telemetry.begin_anew()
    telemetry.close()
    stuck.set()
    telemetry.thread.join(10)
