"""How many places GPUs make, while the run itself comes and goes on them."""

from __future__ import annotations

import pytest

from orchestrator.deadlines import GPUS_COUNTED_EVERY_S, GPUS_SETTLE_WITHIN_S
from orchestrator.ray_backend.gpu_slots import GpuSlots
from orchestrator.ray_backend.local.main import NvidiaGPUAcceleratorManager, visible_gpus


class World:
    """A clock, and the GPUs that are free."""

    def __init__(self, **free: int) -> None:
        self.now_s = 0.0
        self.free = free
        self.questions = 0

    def ask(self) -> dict[str, int]:
        self.questions += 1
        return dict(self.free)

    def slots(self) -> GpuSlots:
        return GpuSlots(wanted=4, ask=self.ask, clock=lambda: self.now_s)


def test_gpus_that_another_run_holds_are_no_places():
    count = World(idle=8, busy=3, full=0).slots().count(held=(), refused=())

    assert [count(node) for node in ("idle", "busy", "full", "new")] == [4, 3, 0, 0]


def test_a_node_keeps_its_places_while_the_run_comes_and_goes():
    world = World(node=4)
    slots, seen = world.slots(), []
    story = [((), 4), (("node",), 4), (("node",), 0), (("node",), 0), ((), 0), ((), 4), ((), 4)]
    for held, free in story:
        world.free = {"node": free}
        seen.append(slots.count(held=held, refused=())("node"))
        world.now_s += GPUS_SETTLE_WITHIN_S / 3

    assert seen == [4] * len(story)


def test_gpus_that_do_not_come_back_are_no_places_after_a_while():
    world = World(node=0)
    slots = world.slots()
    slots.count(held=("node",), refused=())
    world.now_s += GPUS_SETTLE_WITHIN_S

    assert slots.count(held=(), refused=())("node") == 0


def test_a_node_where_an_agent_waited_in_vain_is_none_at_once():
    world = World(node=0)
    slots = world.slots()
    slots.count(held=("node",), refused=())

    assert slots.count(held=(), refused=("node",))("node") == 0


def test_the_head_is_asked_once_a_second_at_most():
    world = World(node=8)
    slots = world.slots()
    for _ in range(10):
        slots.count(held=(), refused=())
    world.now_s += GPUS_COUNTED_EVERY_S
    slots.count(held=(), refused=())

    assert world.questions == 2


@pytest.mark.parametrize(("visible", "count"), [(None, 4), ("", 0), ("0,2", 2), ("0,1,2,3,4", 4)])
def test_a_local_head_has_the_gpus_of_the_machine_that_cuda_may_see(visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", staticmethod(lambda: 4))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert visible_gpus() == count
