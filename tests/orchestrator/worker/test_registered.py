"""Runs of real workers on files that somebody else left elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from data_pipeline.dataset.progress import unwatched
from data_pipeline.dataset.register import Vocabulary, register_dataset
from data_pipeline.store.local import LocalStore
from data_pipeline.store.open import open_beside
from orchestrator.config import EvalConfig, RunConfig
from orchestrator.messages import Failed
from orchestrator.records.ledger import read_ledger
from tests.orchestrator.worker.tiny_run import VOCAB_SIZE, create_run, proof_on, run_attempt, run_store_of, start_attempt, tiny_config


def on_their_files(config: RunConfig, directory: Path) -> RunConfig:
    """The run on the tokens of its dataset, which two files hold: one raw, one of numpy's. They are its held-out text too."""
    held_out = EvalConfig(dataset="theirs", every_steps=4, num_batches=2)
    theirs = replace(config, data=replace(config.data, dataset="theirs"), eval=held_out)
    create_run(theirs)
    store = LocalStore(Path(config.storage.root))
    directory.mkdir()
    (directory / "0.npy").write_bytes(store.get("datasets/noise/0.bin"))
    np.save(directory / "1.npy", np.frombuffer(store.get("datasets/noise/1.bin"), "<u2"))
    register_dataset(
        store=store,
        elsewhere=open_beside(config.storage),
        name="theirs",
        places=[str(directory)],
        vocabulary=Vocabulary(size=VOCAB_SIZE, eos_id=0),
        progress=unwatched,
    )
    return theirs


def test_a_run_trains_on_registered_files_as_on_a_dataset_of_ours_and_is_proved(tmp_path: Path):
    ours = tiny_config(tmp_path / "ours" / "store")
    create_run(ours)
    theirs = on_their_files(tiny_config(tmp_path / "theirs" / "store"), tmp_path / "files")
    losses = []
    for name, config in (("ours", ours), ("theirs", theirs)):
        run_attempt(config, 1, tmp_path / name)
        assert proof_on(config).ok
        losses.append([record.loss for record in read_ledger(run_store_of(config))[1]])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


def test_a_run_whose_registered_file_changed_ends_with_its_name_and_place(tmp_path: Path):
    config = on_their_files(tiny_config(tmp_path / "run" / "store"), tmp_path / "files")
    for file in (tmp_path / "files").iterdir():
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.write_bytes(data)
    with start_attempt(config, 1, tmp_path / "run") as attempt:
        assert attempt.finish() == [1]
        failed = attempt.workers[0].last(Failed)
    assert failed.error_type == "ShardCorrupt"
    assert failed.text.startswith(f"{tmp_path / 'files'}/")
    again = "restore this file, or register it again with `braid data register` under another name"
    assert failed.text.endswith(f"{again}, or leave its rows out with data.on_corrupt=skip")
