"""Logs of ended workers on their way to the store, and what does not get there."""

from pathlib import Path

import pytest

from data_pipeline.config import StorageConfig
from data_pipeline.store.open import open_store
from orchestrator.node.log_uploader import LogUploader
from orchestrator.records.keys import certain_of_run, log_key, store_of_run


def unreadable() -> bytes:
    raise OSError("no such file")


def wrong() -> bytes:
    raise ZeroDivisionError("a bug")


def test_whatever_keeps_one_log_on_its_node_the_next_ones_are_uploaded(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    storage = StorageConfig(root=str(tmp_path))
    open_store(storage).put(f"{certain_of_run('first')}0001.json", b"submitted")
    uploader = LogUploader(storage, "first")
    for rank, read in enumerate((unreadable, unreadable, wrong, lambda: b"bye")):
        uploader.upload(log_key(1, rank), read)
    uploader.start()

    assert uploader.wait(timeout_s=60)

    assert store_of_run(open_store(storage), "first").get(log_key(1, 3)) == b"bye"
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("WARNING", "logs stay on this node: no such file"),
        ("ERROR", f"{log_key(1, 2)} stays on this node: unexpected error"),
    ]
    assert "ZeroDivisionError: a bug" in caplog.text, "a bug is told with where it is"
