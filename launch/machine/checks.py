"""What `braid doctor` makes of what it found. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement

from launch.units import human

MIN_DISK_BYTES = 10e9
MIN_MEMORY_BYTES = 3e9
MAX_SKEW_S = 5.0
"""Incidents are timed across machines; S3 itself refuses at 15 minutes."""
WATCHED = ("torch", "ray", "torchtitan", "fla-core", "omegaconf", "s3fs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""
    """Empty when ok."""


def judge_python(version: tuple[int, int]) -> Check:
    found = f"{version[0]}.{version[1]}"
    if version in ((3, 11), (3, 12)):
        return Check(name="python", level="ok", found=found)
    return Check(name="python", level="fail", found=found, remedy="use Python 3.11 or 3.12")


def judge_packages(requirements: Sequence[str], installed: Mapping[str, str]) -> list[Check]:
    """`requirements` are braid's own, as its metadata has them; `installed` maps names to versions."""
    wanted = {requirement.name: requirement for requirement in map(Requirement, requirements)}
    return [_judge_package(wanted[name], installed.get(name)) for name in WATCHED if name in wanted]


def _judge_package(wanted: Requirement, version: str | None) -> Check:
    remedy = f"install {wanted.name}{wanted.specifier}, or everything anew with `make venv`"
    if version is None:
        return Check(name=wanted.name, level="fail", found="not installed", remedy=remedy)
    is_good = wanted.specifier.contains(version, prereleases=True)
    return Check(name=wanted.name, level="ok" if is_good else "fail", found=version, remedy="" if is_good else remedy)


def judge_gpus(names: Sequence[str], triton: str | None, driver_present: bool) -> Check:
    """`names` as torch sees them; `driver_present` when the machine has an NVIDIA driver at all."""
    if not names:
        if driver_present:
            return Check(
                name="gpus", level="fail", found="a driver, but torch sees no GPU", remedy="install torch's CUDA build, or check nvidia-smi"
            )
        return Check(name="gpus", level="ok", found="none: recipes with resources.device=cpu run here")
    found = ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))
    if triton is None:
        return Check(name="gpus", level="fail", found=f"{found}, but no triton", remedy="install torch's CUDA build, which brings triton")
    return Check(name="gpus", level="ok", found=f"{found}, triton {triton}")


def judge_kernels(index: int, wrong: str, took_s: float) -> Check:
    """`wrong` is what the self-check of this machine's GPU `index` found; "" for nothing."""
    name = f"kernels, GPU {index}"
    if not wrong:
        return Check(name=name, level="ok", found=f"right, forward and backward, in {took_s:.1f} s")
    remedy = "train without this GPU where others are right; where none is, try another torch and triton, or model.gdn_backend=fla or torch"
    return Check(name=name, level="fail", found=wrong, remedy=remedy)


def judge_disk(
    path: str, free_bytes: int, *, is_usable: bool, name: str = "disk", variable: str = "BRAID_HOME", network: str = ""
) -> Check:
    """`is_usable`: it is a directory that can be written to, or can become one; `network`: the kind of a file system that is no disk."""
    if not is_usable:
        remedy = f"set {variable} to a directory that can be written to"
        return Check(name=name, level="fail", found=f"{path} can't be written to, or is no directory", remedy=remedy)
    if network:
        return Check(
            name=name, level="fail", found=f"{path} is on {network}", remedy=f"set {variable} to a directory on a disk of this machine"
        )
    found = f"{human(free_bytes)}B free at {path}"
    if free_bytes >= MIN_DISK_BYTES:
        return Check(name=name, level="ok", found=found)
    remedy = f"free some, or set {variable} elsewhere: {human(MIN_DISK_BYTES)}B is little for a dataset cache"
    return Check(name=name, level="warn", found=found, remedy=remedy)


def judge_memory(available_bytes: int) -> Check:
    found = f"{human(available_bytes)}B available"
    if available_bytes >= MIN_MEMORY_BYTES:
        return Check(name="memory", level="ok", found=found)
    return Check(name="memory", level="warn", found=found, remedy="close something: three local nodes and two workers want about 3 GB")


def judge_memory_monitor(setting: str | None, *, is_local: bool) -> Check:
    """`setting` is RAY_memory_monitor_refresh_ms of this process; None where it is not set. braid itself starts the local cluster."""
    name = "memory monitor"
    if is_local:
        return Check(name=name, level="ok", found="off: braid starts the local cluster without it")
    unseen = "what Ray was started with on other nodes can't be seen from here"
    if setting == "0":
        return Check(name=name, level="ok", found=f"off in this environment; {unseen}")
    return Check(
        name=name,
        level="warn",
        found=f"not switched off in this environment; {unseen}",
        remedy="start Ray with RAY_memory_monitor_refresh_ms=0 on every node, or it kills the agent and all workers where memory runs out",
    )


def judge_error(name: str, line: str) -> Check:
    """`line` is an error's: what is wrong, and behind the last "; " the remedy, where it has one."""
    found, separator, remedy = line.rpartition("; ")
    return Check(name=name, level="fail", found=found if separator else line, remedy=remedy if separator else "")


def judge_leftovers(num_removed: int, why: str = "") -> Check:
    """What killed writers had left incomplete for longer than a day, which the doctor removed; `why` it could not."""
    if why:
        remedy = "allow s3:ListBucketMultipartUploads and s3:AbortMultipartUpload, or see to it yourself"
        return Check(name="leftovers", level="warn", found=f"what killed writers left can't be removed: {why}", remedy=remedy)
    found = f"{num_removed} incomplete objects of killed writers, now removed" if num_removed else "none of killed writers"
    return Check(name="leftovers", level="ok", found=found)


def judge_upload_rule(bucket: str, prefix: str, is_there: bool | None, why: str = "") -> Check:
    """`is_there` is None where the server does not say, because of `why`."""
    name = "upload rule"
    if is_there:
        return Check(name=name, level="ok", found="the bucket aborts incomplete uploads itself")
    rule = {
        "ID": "braid-incomplete-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": f"{prefix}/" if prefix else ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
    }
    found = "no rule of the bucket aborts incomplete uploads, so those of killed writers take room for ever"
    if is_there is None:
        found = f"it can't be seen whether the bucket aborts incomplete uploads: {why}"
    remedy = (
        f"add it to the rules that there are: aws s3api put-bucket-lifecycle-configuration --bucket {bucket} "
        f"--lifecycle-configuration '{json.dumps({'Rules': [rule]})}'"
    )
    return Check(name=name, level="warn", found=found, remedy=remedy)


def judge_clock(store_s: float, before_s: float, after_s: float) -> Check:
    """`store_s` is the store's time of an object that was written between two readings of this machine's clock; stores round to seconds."""
    skew_s = max(before_s - 1.0 - store_s, store_s - after_s, 0.0)
    if skew_s <= MAX_SKEW_S:
        return Check(name="clock", level="ok", found="agrees with the store's")
    return Check(
        name="clock",
        level="warn",
        found=f"{skew_s:.0f} s away from the store's",
        remedy="set it, for example with NTP; S3 refuses beyond 15 minutes",
    )
