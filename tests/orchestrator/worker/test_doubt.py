"""A run on a single node that can't read a checkpoint: nobody else can tell whether it is the file or the host."""

import re
import socket

import pytest

from orchestrator.errors import CheckpointCorrupt, PeerFailed
from orchestrator.messages import Resumed
from orchestrator.records.keys import checkpoint_directory
from orchestrator.worker.exchange import Exchange
from tests.orchestrator.worker.ranks import begin, flip_a_byte, on_ranks, steps_on_store
from tests.orchestrator.worker.test_resume import Misreading, saved, steps_refused


def test_what_one_host_alone_passed_over_is_read_again_by_the_next_attempt(exchange: Exchange):
    """Two ranks of one node, whose memory flips bits; it may pass over all but the last, and refuses nothing."""
    store = saved(3, 6)
    misreading = Misreading(name="__0_0.distcp", objects=store.objects, lock=store.lock)

    for error in on_ranks(2, lambda exchange: begin(misreading, exchange, 2).load(ranks_per_node=2)):
        assert isinstance(error, CheckpointCorrupt | PeerFailed)

    assert begin(store, exchange, 3).load()[0] == Resumed(step=6)


def test_a_run_that_went_on_without_what_it_passed_over_does_not_come_back_to_it(exchange: Exchange):
    """It replayed from step 3, and is at step 5: the checkpoint of step 6 is of a history that it has left."""
    store = saved(3, 6)
    good = store.objects[checkpoint_directory(6, 1) + "__0_0.distcp"]
    flip_a_byte(store, checkpoint_directory(6, 1) + "__0_0.distcp")
    training = begin(store, exchange, 2)
    assert training.load()[0].step == 3
    training.save(5)
    store.objects[checkpoint_directory(6, 1) + "__0_0.distcp"] = good

    assert begin(store, exchange, 3).load()[0] == Resumed(step=5)
    flip_a_byte(store, checkpoint_directory(5, 2) + "__0_0.distcp")
    assert begin(store, exchange, 4).load()[0].step == 3


def test_retention_neither_counts_nor_deletes_what_the_attempt_passed_over(exchange: Exchange):
    """A person may find that the file is right: it stays as long as the attempt does, and then goes as any old one."""
    store = saved(3, 6)
    flip_a_byte(store, checkpoint_directory(6, 1) + "__0_0.distcp")
    training = begin(store, exchange, 2)
    training.load()

    training.save(9)
    assert steps_on_store(store) == {"step-000000003-a0001", "step-000000006-a0001", "step-000000009-a0002"}
    training.save(12, 15)
    assert steps_on_store(store) == {"step-000000006-a0001", "step-000000012-a0002", "step-000000015-a0002"}
    begin(store, exchange, 3).save(18)
    assert steps_on_store(store) == {"step-000000015-a0002", "step-000000018-a0003"}


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "manifest.json"])
def test_the_last_checkpoint_is_not_passed_over_on_the_word_of_one_host(exchange: Exchange, name: str):
    """Two ranks of one node are one witness. Nor is it held against that host as a fault of its hardware: the file may be broken."""
    store = saved(3, 6)
    for step in (3, 6):
        flip_a_byte(store, checkpoint_directory(step, 1) + name)

    for attempt in (2, 3):
        complaining, other = on_ranks(2, lambda exchange, attempt=attempt: begin(store, exchange, attempt).load(ranks_per_node=2))

        assert isinstance(complaining, CheckpointCorrupt)
        assert re.fullmatch(
            rf"host {socket.gethostname()}: memory:checkpoints/step-000000003-a0001/{name} is not what was written: SHA-256 \S+…, "
            r"committed was \S+…; it is of the last checkpoint that is trusted, which one host alone does not pass over: "
            r"run `braid checkpoints first --verify` on another machine, or resume on another node",
            str(complaining),
        )
        assert repr(other) == "PeerFailed('rank 0 alone finds a checkpoint broken, see its error')"
        assert steps_refused(store) == []
