"""One worker's life from rendezvous to farewell. The first of the worker's modules to import torch's distributed half."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from data_pipeline.store.protocol import ObjectStore
from model.build import shard_model
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.parallel.config import ParallelConfig
from model.presets import PRESETS
from model.self_check import find_wrong_kernel, runs_kernels
from orchestrator.config import RunConfig
from orchestrator.errors import KernelsWrong
from orchestrator.messages import Ended
from orchestrator.worker.build import build_trainer
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.verdicts import code_digest, forgotten_in_doubt, is_known, keep, verdict_on
from orchestrator.worker.world import build_world

IMPORTED_LATE = ("torch._inductor.config", "torch.distributed.checkpoint.filesystem", "data_pipeline.store.s3")
"""What is imported only when a model is sharded, kernels are to be deterministic (with the compiler), or a store is on S3."""
SMALLEST = PRESETS["tiny"]
log = logging.getLogger(__name__)


def train_once(
    config: RunConfig,
    store: ObjectStore,
    *,
    attempt_number: int | None,
    reporter: Reporter,
    stop: threading.Event,
    cache_dir: Path,
    memory: Sequence[int] = (),
) -> Ended:
    """Trains as this rank until the last step or a stop; `store` is the storage root. End the process with os._exit afterwards.

    `memory` are files for snapshots that outlive this process.
    """
    began_s = time.monotonic()
    world = build_world(config, os.environ)
    with forgotten_in_doubt(world.device, cache_dir):
        require_right_kernels(config.model, config.parallel, world.device, cache_dir, is_packed=config.data.document_masking)
        trainer = build_trainer(
            config,
            world,
            store,
            attempt_number=attempt_number,
            reporter=reporter,
            stop=stop,
            cache_dir=cache_dir,
            memory=memory,
            joining_s=time.monotonic() - began_s,
        )
        ended = trainer.run()
    world.leave()
    return ended


def warm_up() -> Iterator[None]:
    """Does piece by piece what takes a process time before anything is known of its training; whoever waits for it may stop.

    The model's source is digested first, while it is what was imported.

    A GPU's driver is asked, but no context made: that takes 0.15 s on an H200, and would hold 0.6 GiB of a GPU on which others train.
    """
    code_digest()
    for name in IMPORTED_LATE:
        importlib.import_module(name)
        yield
    shard_model(SMALLEST, None, device=torch.device("meta"), compute=ComputeConfig(), compute_dtype=torch.float32)  # imports its layers
    yield
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # what is wrong shows when it is needed
            torch.cuda.init()


def require_right_kernels(
    model: ModelConfig, parallel: ParallelConfig, device: torch.device, cache_dir: Path, *, is_packed: bool = True
) -> None:
    """Raises KernelsWrong where a kernel of this rank's layers computes something else than plain torch does, which is their definition.

    What passed on this GPU within a day, by a verdict that is kept in the node's cache, is not checked again.

    The check compiles the kernels at the sizes of the training, several at once, so that the first step need not compile them one after the
    other; only AdamW's kernels for parameters of odd sizes are left to that step.
    """
    if not runs_kernels(model, device):
        return
    verdict = verdict_on(device, model, parallel, is_packed=is_packed)
    if verdict is not None and is_known(verdict, cache_dir, now_s=time.time()):
        log.info("the kernels of model.gdn_backend=%s were right on %s before (GPU %s)", model.backend_on(device.type), device, verdict.gpu)
        return
    started_s = time.monotonic()
    wrong = find_wrong_kernel(model, parallel, device=device, is_packed=is_packed)
    if wrong:
        raise KernelsWrong(wrong)
    if verdict is not None:
        keep(verdict, cache_dir)
    log.info(
        "the kernels of model.gdn_backend=%s are right on %s (%.1f s)", model.backend_on(device.type), device, time.monotonic() - started_s
    )
