"""What each kind of error means, looked up in one table by its class and those that it derives from."""

import pytest
import torch

import data_pipeline.errors
import data_pipeline.paths
import data_pipeline.store.protocol
import orchestrator.codec
import orchestrator.errors
from data_pipeline.errors import CacheUnusable, DataError, ShardCorrupt
from data_pipeline.store.protocol import AccessDenied, KeyMissing, StoreError, StoreUnavailable
from orchestrator.codec import DecodeError
from orchestrator.errors import (
    ERRORS,
    CheckpointCorrupt,
    ConfigMismatch,
    Diverged,
    Fenced,
    JournalBroken,
    KernelsWrong,
    NoCheckpoint,
    Superseded,
    agreement_order,
    is_expected,
)

HOMES = (orchestrator.errors, orchestrator.codec, data_pipeline.errors, data_pipeline.paths, data_pipeline.store.protocol, torch)
EXPECTED = (
    Fenced, ConfigMismatch, NoCheckpoint, CheckpointCorrupt, KernelsWrong, Superseded, JournalBroken, DecodeError, StoreError, KeyMissing,
    Diverged, AccessDenied, StoreUnavailable, DataError, CacheUnusable, ShardCorrupt,
)  # fmt: skip
AGREED = (
    (Fenced,), (ConfigMismatch,), (NoCheckpoint,), (DecodeError,), (Diverged,),
    (StoreError, StoreUnavailable, KeyMissing), (CheckpointCorrupt,),
)  # fmt: skip
"""In the order in which they count."""
NEITHER = (ValueError, OSError, RuntimeError, torch.OutOfMemoryError)


@pytest.mark.parametrize("name", ERRORS)
def test_every_row_is_of_an_error_that_exists(name: str):
    [cls] = {getattr(home, name) for home in HOMES if hasattr(home, name)}
    assert issubclass(cls, Exception)


def test_an_expected_error_is_one_or_derives_from_one():
    assert [cls for cls in EXPECTED if not is_expected(cls("one line"))] == []
    assert [cls for cls in NEITHER if is_expected(cls("no"))] == []


def test_ranks_agree_on_the_earlier_kind_and_on_the_errors_that_derive_from_it():
    for place, classes in enumerate(AGREED):
        assert [agreement_order(cls("one line")) for cls in classes] == [place] * len(classes)


def test_what_only_one_rank_can_mend_is_not_agreed_on():
    alone = (KernelsWrong, DataError, CacheUnusable, JournalBroken, *NEITHER)
    assert [agreement_order(cls("no")) for cls in alone] == [None] * len(alone)
