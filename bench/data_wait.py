"""How long a step waits for its data: `python -m bench.data_wait ROOT`, where ROOT is a directory with the corpus of `bench/data.py`.

A consumer takes a batch every STEP_S, as training does, from a store that is made so slow that the loader delivers FASTER times that
rate. The last line is the share of the time that it waited.
"""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass
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
NUM_STEPS = 40
FASTER = 4
ROWS = 16
SEQ_LEN = 8192


@dataclass(frozen=True, slots=True)
class SlowStore(LocalStore):
    """Takes its time for each row."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        ends_at_s = time.perf_counter() + STEP_S / FASTER / ROWS
        data = LocalStore.get_range(self, key, start, length)
        time.sleep(max(0.0, ends_at_s - time.perf_counter()))
        return data


def main() -> None:
    root = sys.argv[1]
    torch.set_num_threads(1)
    manifest = load_manifest(open_store(StorageConfig(root=root)), "bench")
    loader = build_loader(
        manifests=(manifest,),
        config=DataConfig(dataset="bench", seq_len=SEQ_LEN, shuffle="blocks"),
        store=SlowStore(Path(root)),
        cache_dir=Path(root, "unused"),
        batch_rows=ROWS,
    )
    waited_s = 0.0
    with closing(loader), closing(Feed(loader, place=lambda step, batch: (), device=torch.device("cpu"), last_step=NUM_STEPS)) as feed:
        feed.batch(1)
        started_s = time.perf_counter()
        for step in range(2, NUM_STEPS + 1):
            time.sleep(STEP_S)
            asked_s = time.perf_counter()
            feed.batch(step)
            waited_s += time.perf_counter() - asked_s
        print(waited_s / (time.perf_counter() - started_s))


if __name__ == "__main__":
    main()
