"""A worker that loads the newest checkpoint and trains nothing: rank 0 prints the digest of every full tensor. Started like a worker."""

import hashlib
import json
import os
import sys
import threading

from torch import Tensor
from torch.distributed.tensor import DTensor

from data_pipeline.store.open import open_store
from orchestrator import codec
from orchestrator.config import RunConfig
from orchestrator.worker.build import build_trainer
from orchestrator.worker.environment import read_environment, torch_variables
from orchestrator.worker.orders import wait_for_assign
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.training_state import training_state
from orchestrator.worker.world import build_world


def digest(tensor: Tensor) -> str:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return hashlib.sha256(full.detach().contiguous().numpy().tobytes()).hexdigest()


def main() -> None:
    environment = read_environment(os.environ)
    assign = wait_for_assign(os.fdopen(environment.order_fd, "rb"))
    os.environ.update(torch_variables(assign))
    store = open_store(assign.storage)
    config = codec.from_json(RunConfig, store.get(f"runs/{assign.run}/config/{assign.config_version:04d}.json"))
    world = build_world(config, os.environ)
    trainer = build_trainer(
        config,
        world,
        store,
        attempt_number=assign.attempt,
        reporter=Reporter(None),
        stop=threading.Event(),
        cache_dir=environment.cache_dir,
    )
    digests = {name: digest(tensor) for name, tensor in training_state(trainer.model, trainer.optimizer).items()}
    if world.is_first:
        print(json.dumps({"step": trainer.resumed.step, "digests": digests}))
    world.leave()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
