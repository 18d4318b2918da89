"""Times reading samples of a cached dataset against copying the same bytes, which nothing can beat: `python -m bench.loader`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.timing import medians_s, print_ratios
from data_pipeline.config import DataConfig, StorageConfig
from data_pipeline.dataset.build import build_default_dataset
from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.read.loader import build_loader
from data_pipeline.store.open import open_store

SEQ_LEN = 1024
ROWS = 8
STEPS = 50


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(StorageConfig(root=f"{directory}/store"))
        build_default_dataset(store=store, name="python-stdlib", progress=lambda *told: None)
        manifest = load_manifest(store, "python-stdlib")
        loader = build_loader(
            manifests=(manifest,),
            config=DataConfig(dataset="python-stdlib", seq_len=SEQ_LEN),
            store=store,
            cache_dir=Path(directory) / "cache",
            batch_rows=ROWS,
        )
        copied = [loader.batch(step).tokens_BT for step in range(1, STEPS + 1)]
        times_s = medians_s(
            {
                "copying the same tensors": lambda: [tokens.clone() for tokens in copied],
                "loader": lambda: [loader.batch(step) for step in range(1, STEPS + 1)],
            }
        )
        loader.close()
    print_ratios(f"{STEPS} steps of {ROWS} × {SEQ_LEN} tokens, one process", times_s)
    print(f"  loader: {STEPS * ROWS * SEQ_LEN / times_s['loader'] / 1e6:.1f} million tokens/s")


if __name__ == "__main__":
    main()
