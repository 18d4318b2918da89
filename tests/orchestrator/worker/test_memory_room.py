"""Snapshots that a node can't hold are done without, by every rank, rather than that the kernel ends a process."""

import os
from collections.abc import Iterator, Sequence

import pytest
import torch

from orchestrator.host_memory import HostMemory
from orchestrator.worker import memory_room
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.image import new_memory
from orchestrator.worker.memory_room import memory_that_fits
from orchestrator.worker.snapshots import build_snapshots
from tests.orchestrator.worker.ranks import on_ranks

STATE = {"model.weight": torch.zeros(2**18), "optimizer.weight.step": torch.tensor(1.0)}
"""1 MiB and a little."""
TWO_IMAGES = 2 * (2**20 + 4)


@pytest.fixture
def memory() -> Iterator[list[int]]:
    files = new_memory(["first", "second"])
    yield files
    for fd in files:
        os.close(fd)


def left(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(memory_room, "host_memory", lambda: HostMemory(total=0, available=available))


def test_a_node_that_can_hold_them_keeps_snapshots(exchange: Exchange, memory: list[int], monkeypatch: pytest.MonkeyPatch):
    left(monkeypatch, 8 * TWO_IMAGES)

    assert memory_that_fits(memory, STATE, exchange=exchange, ranks_per_node=8) == memory


def test_a_node_that_lacks_a_byte_goes_without_and_says_so(
    exchange: Exchange, memory: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    left(monkeypatch, 8 * TWO_IMAGES - 1)

    assert memory_that_fits(memory, STATE, exchange=exchange, ranks_per_node=8) == ()
    assert "those of its 8 workers take 0.0 more; use nodes with more memory, or set snapshot.enabled=false" in caplog.text


def test_memory_that_snapshots_of_an_earlier_attempt_have_taken_is_not_asked_for_again(
    exchange: Exchange, memory: list[int], monkeypatch: pytest.MonkeyPatch
):
    snapshots = build_snapshots(memory, STATE, rank=0, world_size=1, attempt=1, terms="", device=torch.device("cpu"))
    for step in (1, 2):
        snapshots.take(step, STATE).result()
    left(monkeypatch, 0)

    assert memory_that_fits(memory, STATE, exchange=exchange, ranks_per_node=8) == memory


def test_where_one_node_lacks_room_no_rank_keeps_snapshots(
    memory: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    left(monkeypatch, TWO_IMAGES)

    def fits(exchange: Exchange) -> Sequence[int]:
        return memory_that_fits(memory, STATE, exchange=exchange, ranks_per_node=1 + exchange.rank)

    assert on_ranks(2, fits) == [(), ()]
    assert "the nodes of 1 workers lack room for them" in caplog.text


def test_without_an_agent_there_is_nothing_to_fit(exchange: Exchange, monkeypatch: pytest.MonkeyPatch):
    left(monkeypatch, 0)

    assert memory_that_fits((), STATE, exchange=exchange, ranks_per_node=8) == ()
