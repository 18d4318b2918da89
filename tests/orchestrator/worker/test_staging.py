"""Snapshots: apart from what training goes on changing, sharded like it, and in memory that is allocated once."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from orchestrator.worker.staging import Stager


def test_a_snapshot_keeps_its_values_while_training_goes_on():
    weight = torch.ones(2, 3)
    snapshot = Stager(torch.device("cpu")).stage({"weight": weight})
    weight.fill_(2.0)

    assert torch.equal(snapshot["weight"], torch.ones(2, 3))


def test_a_sharded_tensor_stays_sharded(group: dist.ProcessGroup):
    sharded = distribute_tensor(torch.arange(6.0).reshape(3, 2).requires_grad_(), DeviceMesh.from_group(group, "cpu"), [Shard(0)])

    copy = Stager(torch.device("cpu")).stage({"weight": sharded})["weight"]

    assert isinstance(copy, DTensor)
    assert (copy.device_mesh, copy.placements, copy.shape) == (sharded.device_mesh, sharded.placements, sharded.shape)
    assert torch.equal(copy.to_local(), sharded.to_local())
    assert not copy.requires_grad


def test_every_snapshot_is_taken_into_the_same_memory(group: dist.ProcessGroup):
    stager = Stager(torch.device("cpu"))
    state = {"weight": distribute_tensor(torch.ones(4), DeviceMesh.from_group(group, "cpu"), [Shard(0)]), "step": torch.tensor(1.0)}
    addresses = [{tensor.data_ptr() for tensor in map(local, stager.stage(state).values())} for _ in range(3)]

    assert addresses[0] == addresses[1] == addresses[2]
    assert len(addresses[0]) == 2


def local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
