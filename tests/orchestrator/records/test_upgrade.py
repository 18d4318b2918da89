"""What the first version stored is read as it was meant, and keeps its digests: runs begun then go on."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator import codec
from orchestrator.config import RunConfig, training_digest
from orchestrator.records.configs import read_config
from orchestrator.records.keys import config_key
from orchestrator.records.ledger import setting_of
from tests.fakes.memory_store import MemoryStore

STORED = codec.to_json(json.loads(Path(__file__).with_name("stored_by_0_1.json").read_text()))
"""`runs/plain/config/0001.json` of a run of the recipe tiny, as the version before the rooms wrote it."""
TRAINING_DIGEST = "d16d2fca2be48b1f99eb33972316816c9cb59e3da6a7dd2d735fb04b5f3d1846"
SETTING = "504bab65fe69"
"""What that run's checkpoints hold, and its ledger."""


def stored() -> RunConfig:
    store = MemoryStore()
    store.put(config_key(1), STORED)
    return read_config(store, 1)


def test_its_configuration_is_written_again_byte_for_byte() -> None:
    assert codec.to_json(stored()) == STORED


def test_its_checkpoints_still_belong_to_it() -> None:
    assert training_digest(stored()) == TRAINING_DIGEST


def test_its_losses_which_hold_the_z_loss_are_not_compared_with_later_ones_to_the_bit() -> None:
    assert setting_of(stored(), torch_version="2.13.0+cpu") != SETTING


def test_what_keeps_documents_apart_learns_other_labels_and_is_another_run() -> None:
    """Its checkpoints hold the digest of its settings alone; which is refused, so that no run changes what it learns on its way."""
    packed = replace(stored(), data=replace(stored().data, document_masking=True))
    decisive = (packed.model, packed.data, packed.optimizer, packed.start, packed.train.batch_rows, packed.train.seed)
    assert training_digest(packed) != codec.digest(decisive)


def test_a_later_field_counts_once_it_says_something() -> None:
    grouped = replace(stored(), model=replace(stored().model, gdn_num_value_heads=8))
    assert training_digest(grouped) != TRAINING_DIGEST
    assert b'"gdn_num_value_heads":8' in codec.to_json(grouped)
    assert codec.from_json(RunConfig, codec.to_json(grouped)) == grouped


@dataclass(frozen=True, kw_only=True)
class Grown:
    old: int
    new: int = field(default=3, metadata={"omit_default": True})


def test_a_later_field_is_left_out_at_its_default_and_read_back_as_it() -> None:
    assert codec.to_json(Grown(old=1)) == b'{"old":1}'
    assert codec.from_json(Grown, b'{"old":1}') == Grown(old=1)
    assert codec.to_json(Grown(old=1, new=4)) == b'{"new":4,"old":1}'
