"""`braid doctor`: looks at this machine, the store and the cluster. Every check says what it found and what to do."""

import dataclasses
import importlib.metadata
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from data_pipeline.config import StorageConfig
from data_pipeline.read.file_systems import network_file_system
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import KeyExists, ObjectStore, StoreError
from launch.errors import NotReachable
from launch.machine.checks import (
    Check,
    judge_clock,
    judge_disk,
    judge_error,
    judge_gpus,
    judge_kernels,
    judge_leftovers,
    judge_memory,
    judge_memory_monitor,
    judge_packages,
    judge_python,
    judge_upload_rule,
)
from launch.runs.connection import reachable
from model.config import ParallelConfig
from model.presets import PRESETS
from orchestrator.host_memory import host_memory
from orchestrator.records.keys import PROBES
from orchestrator.records.leftovers import remove_abandoned

PROBE = b"written by braid doctor"
MEMORY_MONITOR = "RAY_memory_monitor_refresh_ms"
"""Environment variable of Ray's: 0 switches its memory monitor off."""
DEADLINE_S = 5.0
"""How long one operation on the store is tried: a person waits."""


def examine(storage: StorageConfig, *, home: Path, cache: Path, cluster: Callable[[], list[Check]]) -> Iterator[Check]:
    """Yields every check as soon as it is done. `home` is for braid's files, `cache` for blocks of data; `cluster` looks at the cluster."""
    yield judge_python(sys.version_info[:2])
    yield from _packages()
    yield _gpus()
    yield from _kernels()
    yield _disk(home)
    yield _disk(cache, name="cache", variable="BRAID_CACHE", network=network_file_system(cache) if storage.is_s3 else "")
    yield judge_memory(host_memory().available)
    yield from check_store(storage)
    if storage.is_s3:
        yield check_upload_rule(storage)
    yield from cluster()


def _disk(path: Path, *, name: str = "disk", variable: str = "BRAID_HOME", network: str = "") -> Check:
    there = _existing(path)
    is_usable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    free = shutil.disk_usage(there).free
    return judge_disk(str(path), free, is_usable=is_usable, name=name, variable=variable, network=network)


def _packages() -> list[Check]:
    try:
        required = importlib.metadata.requires("braid") or []
    except importlib.metadata.PackageNotFoundError:
        return [Check(name="braid", level="warn", found="runs from its source, not installed", remedy="install it with `make venv`")]
    return judge_packages(required, _installed())


def check_store(storage: StorageConfig) -> list[Check]:
    """Tries what journal and checkpoints rely on with a small object below `doctor/`, which is removed again."""
    writable = Check(name=f"store {storage.root}", level="ok", found="reachable and writable")
    try:
        store = open_store(dataclasses.replace(storage, deadline_s=DEADLINE_S))
        key = f"{PROBES}{uuid.uuid4().hex}"
        before_s = time.time()
        store.create(key, PROBE)
        after_s = time.time()
        try:
            return [writable, *_check_rules(store, key, before_s, after_s), _check_leftovers(store, before_s)]
        finally:
            with suppress(StoreError):
                store.delete(key)
    except StoreError as error:
        return [judge_error(f"store {storage.root}", str(error))]


def check_upload_rule(storage: StorageConfig) -> Check:
    """Whether the bucket itself sees to what killed writers leave: nobody of a run that never comes back does."""
    from data_pipeline.store.s3 import aborts_uploads_itself

    bucket, prefix = storage.bucket_and_prefix()
    try:
        return judge_upload_rule(bucket, prefix, aborts_uploads_itself(dataclasses.replace(storage, deadline_s=DEADLINE_S)))
    except StoreError as error:
        return judge_upload_rule(bucket, prefix, None, why=str(error))


def _check_rules(store: ObjectStore, key: str, before_s: float, after_s: float) -> list[Check]:
    """Tries the rules of a store with an object that was written between two readings of the clock. Raises StoreError."""
    rules = [_check_create_if_absent(store, key), _check_ranges(store, key)]
    infos = store.list(key)
    if [info.key for info in infos] != [key]:
        rules.append(
            Check(name="listing", level="fail", found="a written object is not listed", remedy="use a store with consistent listing")
        )
        return rules
    return [*rules, judge_clock(infos[0].modified_at_s, before_s, after_s)]


def _check_leftovers(store: ObjectStore, now_s: float) -> Check:
    try:
        return judge_leftovers(remove_abandoned(store, now_s=now_s))
    except StoreError as error:
        return judge_leftovers(0, why=str(error))


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


def check_cluster(address: str, environment: Mapping[str, str]) -> list[Check]:
    """The cluster at `address`, or the local one. That there is no local one is fine: it is started when a run needs it."""
    try:
        with reachable(address) as connection:
            if connection is None:
                return [Check(name="cluster", level="ok", found="no local one yet; it starts with the first run")]
            alive = [node for node in connection.nodes() if node.is_alive]
    except NotReachable as error:
        return [judge_error("cluster", str(error))]
    num_gpus = sum(node.num_gpus for node in alive)
    found = f"{len(alive)} nodes, {num_gpus:g} GPUs at {address or 'the local address'}"
    monitor = judge_memory_monitor(environment.get(MEMORY_MONITOR), is_local=not address)
    return [Check(name="cluster", level="ok", found=found), monitor]


def _installed() -> dict[str, str]:
    names = [(str(found.metadata["Name"]), found.version) for found in importlib.metadata.distributions()]
    return {name.lower(): version for name, version in names}


def _gpus() -> Check:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return judge_gpus(names, _installed().get("triton"), Path("/proc/driver/nvidia/version").exists())


def _kernels() -> Iterator[Check]:
    """Checks the kernels on every GPU of this machine, with the heads of the 7B. The first GPU compiles them for all."""
    import torch

    from model.self_check import find_wrong_kernel

    model = PRESETS["olmo_hybrid_7b"]
    for index in range(torch.cuda.device_count()):
        started_s = time.monotonic()
        wrong = find_wrong_kernel(model, ParallelConfig(), device=torch.device("cuda", index))
        yield judge_kernels(index, wrong, time.monotonic() - started_s)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)
