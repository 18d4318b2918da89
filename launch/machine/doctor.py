"""`braid doctor`: looks at this machine, the store and the cluster. Every check says what it found and what to do."""

import dataclasses
import importlib.metadata
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import KeyExists, ObjectStore, StoreError
from launch.machine.checks import Check, judge_clock, judge_disk, judge_gpus, judge_kernels, judge_memory, judge_packages, judge_python
from model.parallel.config import ParallelConfig
from model.presets import PRESETS

PROBE = b"written by braid doctor"
DEADLINE_S = 5.0
"""For one operation on the store: a person waits."""


def examine(storage: StorageConfig, *, home: Path, cluster: Callable[[], Check]) -> Iterator[Check]:
    """Every check, as soon as it is done. `cluster` looks at the cluster."""
    yield judge_python(sys.version_info[:2])
    yield from _packages()
    yield _gpus()
    yield from _kernels()
    yield judge_disk(str(home), shutil.disk_usage(_existing(home)).free)
    yield judge_memory(_available_bytes())
    yield from check_store(storage)
    yield cluster()


def _packages() -> list[Check]:
    try:
        required = importlib.metadata.requires("braid") or []
    except importlib.metadata.PackageNotFoundError:
        return [Check(name="braid", level="warn", found="runs from its source, not installed", remedy="install it with `make venv`")]
    return judge_packages(required, _installed())


def check_store(storage: StorageConfig) -> list[Check]:
    """Writes, reads and removes two small objects below `doctor/`."""
    name = f"store {storage.root}"
    try:
        store = open_store(dataclasses.replace(storage, deadline_s=DEADLINE_S))
        key = f"doctor/{uuid.uuid4().hex}"
        before_s = time.time()
        store.create(key, PROBE)
        after_s = time.time()
        try:
            return [Check(name=name, level="ok", found="reachable and writable"), *_check_rules(store, key, before_s, after_s)]
        finally:
            with suppress(StoreError):
                store.delete(key)
    except StoreError as error:
        found, _, remedy = str(error).rpartition("; ")
        return [Check(name=name, level="fail", found=found or str(error), remedy=remedy)]


def _check_rules(store: ObjectStore, key: str, before_s: float, after_s: float) -> list[Check]:
    """What journal and checkpoints rely on, tried with an object that was written between two moments. Raises StoreError."""
    rules = [_check_create_if_absent(store, key), _check_ranges(store, key)]
    infos = store.list(key)
    if [info.key for info in infos] != [key]:
        rules.append(
            Check(name="listing", level="fail", found="a written object is not listed", remedy="use a store with consistent listing")
        )
        return rules
    return [*rules, judge_clock(infos[0].modified_at_s, before_s, after_s)]


def _check_create_if_absent(store: ObjectStore, key: str) -> Check:
    try:
        store.create(key, PROBE + b", twice")
    except KeyExists:
        return Check(name="create-if-absent", level="ok", found="honoured: a second create is refused")
    remedy = "use a store that honours If-None-Match: two controllers could both believe that they lead a run"
    return Check(name="create-if-absent", level="fail", found="ignored: an object was created twice", remedy=remedy)


def _check_ranges(store: ObjectStore, key: str) -> Check:
    if store.get_range(key, 8, 2) == PROBE[8:10]:
        return Check(name="range reads", level="ok", found="right")
    return Check(name="range reads", level="fail", found="other bytes than asked for", remedy="use a store that honours Range")


def _installed() -> dict[str, str]:
    names = [(str(found.metadata["Name"]), found.version) for found in importlib.metadata.distributions()]
    return {name.lower(): version for name, version in names}


def _gpus() -> Check:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return judge_gpus(names, _installed().get("triton"), Path("/proc/driver/nvidia/version").exists())


def _kernels() -> Iterator[Check]:
    """Of every GPU of this machine, with the heads of the 7B: the first one compiles them for all."""
    import torch

    from model.self_check import find_wrong_kernel

    model = PRESETS["olmo_hybrid_7b"]
    for index in range(torch.cuda.device_count()):
        started_s = time.monotonic()
        wrong = find_wrong_kernel(model, ParallelConfig(), device=torch.device("cuda", index))
        yield judge_kernels(index, wrong, time.monotonic() - started_s)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _available_bytes() -> int:
    """Memory that Linux could give to a new process without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(available.split()[1]) * 1024
