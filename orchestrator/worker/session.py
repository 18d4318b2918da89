"""One worker's life from rendezvous to farewell. The first of the worker's modules to import torch's distributed half."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from data_pipeline.object_store import ObjectStore
from orchestrator.config import RunConfig
from orchestrator.messages import Ended
from orchestrator.worker.build import build_trainer
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.world import build_world


def train_once(
    config: RunConfig, store: ObjectStore, *, attempt_number: int | None, reporter: Reporter, stop: threading.Event, cache_dir: Path
) -> Ended:
    """Trains as this rank until the last step or a stop; `store` is the storage root. End the process with os._exit afterwards."""
    world = build_world(config, os.environ)
    trainer = build_trainer(config, world, store, attempt_number=attempt_number, reporter=reporter, stop=stop, cache_dir=cache_dir)
    ended = trainer.run()
    world.leave()
    return ended
