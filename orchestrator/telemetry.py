"""What an agent tells of its node's hardware, a few numbers every second: levels, not events. Pure."""

from __future__ import annotations

from dataclasses import dataclass

SERIOUS_XIDS = {
    48: "an uncorrectable memory error",
    64: "a row of memory could not be remapped",
    74: "an NVLink error",
    79: "the GPU has fallen off the bus",
    94: "a contained memory error",
    95: "an uncontained memory error",
    119: "its system processor does not answer",
    120: "its system processor failed",
    121: "an error of the link to the CPU",
    140: "an unrecovered memory error",
}
"""Of NVIDIA's numbers for what a driver met, those that a program can't bring about (docs.nvidia.com/deploy/xid-errors)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuLevels:
    """One GPU. What its driver does not tell is None, () or 0."""

    uuid: str
    power_w: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: int | None = None
    used_share: float | None = None
    """Of the last moments, how much of the time a kernel ran."""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    slowed_by: tuple[str, ...] = ()
    """Why its clocks are lower than they could be, idleness and a person's wish aside."""
    uncorrected_errors: int | None = None
    """Of its memory, since the driver was loaded."""
    remapped_rows: int | None = None
    """Of its memory, in all its life, for uncorrectable errors."""
    nvlink_replays: int | None = None
    """Of all its links, since the driver was loaded."""
    trouble: str = ""
    """What its driver has told since the attempt's workers began that no program brings about, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostLevels:
    """A host, or the container that the agent is in."""

    cpu_share: float | None = None
    """Of all its cores' time since the last look, how much they were busy."""
    memory_available_bytes: int
    memory_total_bytes: int
    disk_free_bytes: int
    """Where braid's home is."""
    disk_total_bytes: int
    received_bytes_s: float | None = None
    """Over all its networks, loopback aside."""
    sent_bytes_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeLevels:
    host: HostLevels
    gpus: tuple[GpuLevels, ...] = ()


def trouble_of(levels: NodeLevels | None) -> str:
    """What a node's GPUs have met that explains a failure there; "" for nothing."""
    gpus = levels.gpus if levels is not None else ()
    return "; ".join(f"GPU {gpu.uuid}: {gpu.trouble}" for gpu in gpus if gpu.trouble)
