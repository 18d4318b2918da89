"""How long a step waits for its data: `python -m bench.data_wait ROOT`, where ROOT is a directory with the corpus of `bench/data.py`.

A consumer takes a batch every STEP_S, as training does, from a store that is made so slow that it delivers FASTER times that rate. Once
its first blocks are there, the last line is the share of the time that it waited, through the end of a window, where all rows take others.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from data_pipeline.config import DataConfig, StorageConfig
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.read.loader import build_loader
from data_pipeline.store.local import LocalStore
from data_pipeline.store.open import open_store
from orchestrator.worker.feed import Feed

STEP_S = 0.5
"""Of so many tokens, what a model of 190 M parameters takes on one H200: larger ones take longer."""
FIRST_STEPS, NUM_STEPS = 64, 160
"""The rows of a window of one block are 128 steps'."""
FASTER = 4
ROWS = 16
SEQ_LEN = 8192


@dataclass(frozen=True, slots=True)
class SlowStore(LocalStore):
    """Takes its time for each byte, of all readers together."""

    free: list[float] = field(default_factory=lambda: [0.0])
    """When all that was asked for will have come."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        with self.lock:
            self.free[0] = max(self.free[0], time.perf_counter()) + length * STEP_S / FASTER / (2 * ROWS * SEQ_LEN)
            ends_at_s = self.free[0]
        data = LocalStore.get_range(self, key, start, length)
        time.sleep(max(0.0, ends_at_s - time.perf_counter()))
        return data


def main() -> None:
    root = sys.argv[1]
    torch.set_num_threads(1)
    manifest = load_manifest(open_store(StorageConfig(root=root)), "bench")
    loader = build_loader(
        manifests=(manifest,),
        config=DataConfig(dataset="bench", seq_len=SEQ_LEN, shuffle="blocks", shuffle_window=1),
        store=SlowStore(Path(root)),
        cache_dir=Path(root, "unused"),
        batch_rows=ROWS,
    )
    waited_s = 0.0
    with closing(loader), closing(Feed(loader, place=lambda step, batch: (), device=torch.device("cpu"), last_step=NUM_STEPS)) as feed:
        for step in range(1, FIRST_STEPS + 1):
            feed.batch(step)
        started_s = time.perf_counter()
        for step in range(FIRST_STEPS + 1, NUM_STEPS + 1):
            time.sleep(STEP_S)
            asked_s = time.perf_counter()
            feed.batch(step)
            waited_s += time.perf_counter() - asked_s
        print(waited_s / (time.perf_counter() - started_s))


if __name__ == "__main__":
    main()
