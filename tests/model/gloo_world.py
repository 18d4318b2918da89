"""Runs a check on every rank of a small world of real processes."""

import faulthandler
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_world(num_ranks: int, check: Callable[[Path], None], directory: Path, *, backend: str = "gloo") -> None:
    """Calls `check(directory)` on each rank; an assertion that fails on one of them fails the caller, with its traceback."""
    directory.mkdir(exist_ok=True)
    mp.spawn(_run_rank, args=(num_ranks, check, directory, backend), nprocs=num_ranks)


def _run_rank(rank: int, num_ranks: int, check: Callable[[Path], None], directory: Path, backend: str) -> None:
    faulthandler.enable()  # a crash in native code tells what every thread was doing
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{directory}/rendezvous", rank=rank, world_size=num_ranks)
    check(directory)
    dist.barrier()
    if backend == "nccl":
        dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # as workers do: gloo's threads may abort an ordinary exit, or the end of their groups
