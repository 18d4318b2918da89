"""Collectives over the tensor-parallel ranks that autograd sees through, and what of a parameter a rank computes with.

Activations are plain local tensors; only parameters (and the vocabulary-sharded logits) are DTensors. `tp` is the 1-D mesh, or None.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial


def local(parameter: Tensor) -> Tensor:
    """This rank's part of `parameter`. If it is replicated, every rank must get the same gradient for it; else `local_partial`."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def local_partial(parameter: Tensor) -> Tensor:
    """A replicated parameter whose gradient is a sum over the ranks, because each applies it to its own heads."""
    return parameter.to_local(grad_placements=[Partial()]) if isinstance(parameter, DTensor) else parameter


def copy_to_ranks(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """x, the same on all ranks, on its way into sharded heads: its gradient is summed over them."""
    return x if tp is None else _Collective.apply(x, tp, False, True)


def sum_over_ranks(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """The sum of the ranks' parts, for a consumer that is the same on all ranks: the gradient passes as it is."""
    return x if tp is None else _Collective.apply(x, tp, True, False)


def sum_both_ways(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """The sum of the ranks' parts, for consumers that differ between the ranks: the gradient is summed as well."""
    return x if tp is None else _Collective.apply(x, tp, True, True)


def max_over_ranks(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """The elementwise maximum of the ranks' parts, without gradient."""
    return x.detach() if tp is None else _all_reduce(x.detach(), tp, dist.ReduceOp.MAX)


class _Collective(torch.autograd.Function):
    """All-reduces forward, backward, or both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: DeviceMesh, sum_forward: bool, sum_backward: bool) -> Tensor:
        ctx.tp, ctx.sum_backward = tp, sum_backward
        return _all_reduce(x, tp, dist.ReduceOp.SUM) if sum_forward else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return (_all_reduce(grad, ctx.tp, dist.ReduceOp.SUM) if ctx.sum_backward else grad), None, None, None


def _all_reduce(x: Tensor, tp: DeviceMesh, op: Any) -> Tensor:
    result = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, op=op, group=tp.get_group())
    return result
