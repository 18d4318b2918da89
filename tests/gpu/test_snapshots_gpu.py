"""Snapshots of a GPU's state: copied beside what it computes, by a copy that the next update waits for, and loaded back bit for bit."""

import pytest
import torch

from orchestrator.worker.image import new_memory
from orchestrator.worker.snapshots import Snapshots, build_snapshots

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SIZE = 2**26


def _snapshots(state: dict[str, torch.Tensor], memory: list[int], *, attempt: int) -> Snapshots:
    return build_snapshots(memory, state, rank=0, world_size=1, attempt=attempt, terms="", device=torch.device("cuda"))


def test_an_update_waits_for_the_copy_and_what_was_copied_is_what_was_before_it():
    state = {"weight": torch.ones(SIZE, device="cuda"), "step": torch.tensor(1.0)}
    memory = new_memory(["first", "second"])
    snapshots = _snapshots(state, memory, attempt=1)

    for step in range(2, 6):
        busy = torch.randn(4096, 4096, device="cuda")
        taken = snapshots.take(step - 1, state)
        for _ in range(20):
            busy = busy @ busy / 64
        snapshots.before_update()
        state["weight"].fill_(step)
        torch.cuda.synchronize()
        snapshot = taken.result()
        assert snapshot.image.tensors["weight"].unique().tolist() == [step - 1.0]
        assert snapshot.image.tensors["weight"].is_pinned()

    after = {"weight": torch.zeros(SIZE, device="cuda"), "step": torch.tensor(0.0)}
    again = _snapshots(after, memory, attempt=2)
    newest = again.whole()[0]
    again.load(newest, after)
    assert (newest.held.attempt, newest.held.step) == (1, 4)
    assert after["weight"].unique().tolist() == [4.0]
