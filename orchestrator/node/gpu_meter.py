"""What a node's NVIDIA driver tells of the GPUs that a run holds there, through NVML."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pynvml

from orchestrator.telemetry import SERIOUS_XIDS, GpuLevels

SLOWED_BY = {
    "SwPowerCap": "its power limit",
    "HwSlowdown": "the hardware",
    "SwThermalSlowdown": "its temperature",
    "HwThermalSlowdown": "its temperature, by the hardware",
    "HwPowerBrakeSlowdown": "the power supply",
}
"""By the end of NVML's name for each reason."""
T = TypeVar("T")
log = logging.getLogger(__name__)


class GpuMeter:
    """For one thread. Made by `open_gpu_meter`; `nvml` is the module, or one that does as it does."""

    def __init__(self, nvml: Any, handles: dict[str, Any], events: Any) -> None:
        self._nvml = nvml
        self._handles = handles
        """By UUID."""
        self._events = events
        """What tells of Xids; None where the driver does not."""
        self._xids: dict[str, int] = {}
        self._errors_before: dict[str, int] = {}

    def begin_anew(self) -> None:
        """From now on only what is met from now on is trouble: other workers begin."""
        while self._hear(0.0):
            pass
        self._xids = {}
        self._errors_before = {uuid: self._errors_of(handle) or 0 for uuid, handle in self._handles.items()}

    def wait(self, timeout_s: float) -> bool:
        """Waits for news of the driver's; False where it gives none, without having waited."""
        if self._events is None:
            return False
        self._hear(timeout_s)
        return True

    def look(self) -> tuple[GpuLevels, ...]:
        return tuple(self._look_at(uuid, handle) for uuid, handle in self._handles.items())

    def _look_at(self, uuid: str, handle: Any) -> GpuLevels:
        nvml, ask = self._nvml, self._ask
        power = ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        memory = ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        used = ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        rows = ask(lambda: nvml.nvmlDeviceGetRemappedRows(handle))
        return GpuLevels(
            uuid=uuid,
            power_w=power / 1e3 if power is not None else None,
            temperature_c=ask(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            sm_clock_mhz=ask(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            used_share=used / 100 if used is not None else None,
            memory_used_bytes=memory.used if memory is not None else None,
            memory_total_bytes=memory.total if memory is not None else None,
            slowed_by=self._slowed_by(handle),
            uncorrected_errors=self._errors_of(handle),
            remapped_rows=rows[1] if rows is not None else None,
            nvlink_replays=self._replays_of(handle),
            trouble=self._trouble_of(uuid, handle, row_failed=rows is not None and bool(rows[3])),
        )

    def _slowed_by(self, handle: Any) -> tuple[str, ...]:
        bits = self._ask(lambda: self._nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
        return tuple(words for name, words in SLOWED_BY.items() if bits & getattr(self._nvml, f"nvmlClocksEventReason{name}"))

    def _errors_of(self, handle: Any) -> int | None:
        nvml = self._nvml
        kinds = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return self._ask(lambda: int(nvml.nvmlDeviceGetTotalEccErrors(handle, *kinds)))

    def _replays_of(self, handle: Any) -> int | None:
        """None where there are no links."""
        nvml = self._nvml

        def replays(link: int) -> int | None:
            return self._ask(lambda: int(nvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, nvml.NVML_NVLINK_ERROR_DL_REPLAY)))

        found = [*itertools.takewhile(lambda one: one is not None, map(replays, range(nvml.NVML_NVLINK_MAX_LINKS)))]
        return sum(one for one in found if one is not None) if found else None

    def _trouble_of(self, uuid: str, handle: Any, *, row_failed: bool) -> str:
        if (xid := self._xids.get(uuid)) is not None:
            return f"Xid {xid}, {SERIOUS_XIDS[xid]}"
        new_errors = (self._errors_of(handle) or 0) - self._errors_before.get(uuid, 0)
        if new_errors > 0:
            return f"{new_errors} uncorrectable error{'s' * (new_errors != 1)} of its memory"
        return "a row of its memory could not be remapped" if row_failed else ""

    def _hear(self, timeout_s: float) -> bool:
        """Takes in the next Xid, if one comes in time. The first serious one of a GPU stays: what follows is its consequence."""
        nvml = self._nvml
        if self._events is None:
            return False
        try:
            event = nvml.nvmlEventSetWait_v2(self._events, round(timeout_s * 1e3))
        except nvml.NVMLError:  # none came, or the driver is in trouble itself: the next look shows
            return False
        uuid = self._ask(lambda: str(nvml.nvmlDeviceGetUUID(event.device)))
        if uuid is not None and event.eventData in SERIOUS_XIDS:
            log.warning("GPU %s: Xid %d, %s", uuid, event.eventData, SERIOUS_XIDS[event.eventData])
            self._xids.setdefault(uuid, event.eventData)
        return True

    def _ask(self, question: Callable[[], T]) -> T | None:
        """None for what this GPU or driver does not tell."""
        with suppress(self._nvml.NVMLError):
            return question()
        return None


def open_gpu_meter(uuids: Sequence[str], nvml: Any = pynvml) -> GpuMeter | None:
    """For GPUs by UUID; None where there are none, or no driver answers, which is logged."""
    if not uuids:
        return None
    try:
        nvml.nvmlInit()
        handles = {uuid: nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in uuids}
    except nvml.NVMLError as error:
        log.warning("nothing is known of the GPUs' health: %s", error)
        return None
    meter = GpuMeter(nvml, handles, _events_of(nvml, handles.values()))
    meter.begin_anew()
    return meter


def _events_of(nvml: Any, handles: Iterable[Any]) -> Any:
    """What tells of their Xids; None where this driver does not."""
    try:
        events = nvml.nvmlEventSetCreate()
        for handle in handles:
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        return events
    except nvml.NVMLError as error:
        log.warning("the driver does not tell of Xids: %s", error)
        return None
