"""What goes down and up the pipes between an agent and its workers."""

from __future__ import annotations

import pytest

from data_pipeline.config import StorageConfig
from orchestrator.codec import DecodeError
from orchestrator.messages import Assign, Beat, CheckpointLost, Committed, Phase, Rendezvous, Stop, decode, decode_order, encode

ASSIGN = Assign(
    run="first",
    storage=StorageConfig(root="s3://bucket/prefix", endpoint_url="http://store:9000"),
    config_version=2,
    attempt=3,
    rank=11,
    local_rank=3,
    world_size=16,
    local_world_size=8,
    rendezvous=Rendezvous(address="10.0.0.1", port=20001),
)


@pytest.mark.parametrize("order", [ASSIGN, Stop()])
def test_an_order_arrives_as_it_was_given_in_one_line(order: Assign | Stop):
    line = encode(order)

    assert decode_order(line) == order
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    "message",
    [Beat(phase=Phase.SAVING, step=3, told_to_leave=True), Committed(step=4), CheckpointLost(step=4, ranks=(1, 2), text="no answer")],
)
def test_a_message_arrives_as_it_was_told(message: Beat | Committed | CheckpointLost):
    assert decode(encode(message)) == message


def test_neither_side_takes_the_other_sides_words():
    with pytest.raises(DecodeError, match="not a worker's message"):
        decode(encode(Stop()))
    with pytest.raises(DecodeError, match="not an order to a worker"):
        decode_order(encode(Committed(step=4)))


@pytest.mark.parametrize("line", [b"what?\n", b"[]\n", b'{"kind": "Explode"}\n', b'{"kind": "Stop", "when": 1}\n'])
def test_noise_is_no_order(line: bytes):
    with pytest.raises(DecodeError):
        decode_order(line)
