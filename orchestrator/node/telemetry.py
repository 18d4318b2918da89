"""The thread that looks at a node's hardware again and again, so that a driver that does not answer holds nobody up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.deadlines import TELEMETRY_EVERY_S
from orchestrator.node.gpu_meter import GpuMeter, open_gpu_meter
from orchestrator.node.host_meter import HostMeter
from orchestrator.telemetry import NodeLevels

log = logging.getLogger(__name__)


class Telemetry:
    """Make it with `start_telemetry`."""

    def __init__(self, host: HostMeter, open_gpus: Callable[[], GpuMeter | None], *, every_s: float) -> None:
        self._host = host
        self._open_gpus = open_gpus
        self._every_s = every_s
        self._is_over = threading.Event()
        self._begins_anew = threading.Event()
        self._has_complained = False
        self.newest: NodeLevels | None = None
        """As of the last look; None before the first. Read from any thread."""
        self.thread = threading.Thread(target=self._serve, name="telemetry", daemon=True)

    def begin_anew(self) -> None:
        """Other workers begin: what the GPUs met before is no trouble of theirs."""
        self._begins_anew.set()

    def close(self) -> None:
        self._is_over.set()

    def _serve(self) -> None:
        gpus = self._open_gpus()
        while not self._is_over.is_set():
            if self._begins_anew.is_set():
                self._begins_anew.clear()
                if gpus is not None:
                    gpus.begin_anew()
            self._look(gpus)
            if gpus is None or not gpus.wait(self._every_s):
                self._is_over.wait(self._every_s)

    def _look(self, gpus: GpuMeter | None) -> None:
        try:
            self.newest = NodeLevels(host=self._host.look(time.monotonic()), gpus=gpus.look() if gpus is not None else ())
        except (OSError, ValueError, LookupError) as error:
            if not self._has_complained:
                log.warning("the host's levels can't be read: %s", error)
            self._has_complained = True


def start_telemetry(gpus: Sequence[str], home: Path) -> Telemetry:
    """Of this host and these GPUs by UUID, beginning now."""
    telemetry = Telemetry(HostMeter(home), lambda: open_gpu_meter(gpus), every_s=TELEMETRY_EVERY_S)
    telemetry.thread.start()
    return telemetry
