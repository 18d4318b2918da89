"""What torchrun's users write: our model and step, torch's DCP, and the newest checkpoint after a restart. Run by `bench.recovery`.

Its tokens are random, so it neither opens a store nor reads data; each rank writes its process id and every step's end to its own file.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from launch.config.load import load_config
from model.build import build_model
from model.optim.build import build_optimizer
from model.parallel.mesh import build_mesh
from model.train.batch import build_batches
from model.train.step import train_step
from orchestrator.config import RunConfig
from orchestrator.worker.training_state import training_state

LATEST = "latest"
"""Names the newest checkpoint that is whole."""


def train(config: RunConfig, directory: Path) -> None:
    """Until it is killed."""
    device_type = config.resources.device
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device_type == "cuda" else torch.device("cpu")
    if device_type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    mesh = build_mesh(config.parallel, device_type)
    dtype = torch.bfloat16 if device_type == "cuda" else torch.float32
    model = build_model(config.model, mesh, device=device, seed=config.train.seed, compute=config.compute, compute_dtype=dtype)
    optimizer = build_optimizer(model, model.declared, config.optimizer)
    state = training_state(model, optimizer)
    latest = directory / LATEST
    step = int(latest.read_text()) if latest.exists() else 0
    if step:
        dcp.load(state, checkpoint_id=directory / str(step))
    said = (directory / f"rank-{dist.get_rank()}.jsonl").open("a", buffering=1)
    _say(said, began=step, pid=os.getpid())
    rows = config.train.batch_rows // config.parallel.dp
    tokens_BT = torch.randint(config.model.vocab_size, (rows, config.data.seq_len + 1))
    while True:
        step += 1
        batches = build_batches(
            tokens_BT=tokens_BT[:, :-1],
            labels_BT=tokens_BT[:, 1:],
            offsets_P=None,
            micro_rows=config.train.micro_rows,
            mesh=mesh,
            device=device,
        )
        train_step(model, optimizer, batches, lr=1e-4, config=config.optimizer, chunk_tokens=config.compute.loss_chunk_tokens, mesh=mesh)
        _say(said, step=step)
        if step % config.checkpoint.every_steps == 0:
            dcp.save(state, checkpoint_id=directory / str(step))
            if dist.get_rank() == 0:
                latest.with_suffix(".new").write_text(str(step))
                os.replace(latest.with_suffix(".new"), latest)


def _say(file: TextIO, **what: int) -> None:
    file.write(json.dumps({"at_s": time.time(), **what}) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recovery_peer", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args(arguments)
    train(load_config(options.recipe, options.overrides), options.directory)


if __name__ == "__main__":
    main()
