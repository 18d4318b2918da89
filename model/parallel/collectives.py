"""What crosses ranks inside the model, as functions that autograd and torch.compile see through.

Activations are plain local tensors; only parameters (and the vocabulary-sharded logits) are DTensors. `tp` and `cp` are 1-D meshes, or
None. Between the layers a rank of `tp` holds a slice of the tokens (sequence parallelism, arXiv 2205.05198); inside a mixer or
feed-forward it holds all tokens and a share of the heads or channels. A rank of `cp` holds a slice of the tokens everywhere but in the
middle of a mixer, where it has all tokens of a share of the heads (Ulysses, arXiv 2309.14509).
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

_ops = torch.ops._c10d_functional  # the functional collectives, which torch.compile keeps in its graph
TOKENS, HEADS = 1, 2
"""Dimensions of x_BTD and x_BTNK."""


def local(parameter: Tensor) -> Tensor:
    """This rank's part of a parameter. One that every tp rank has whole, for its own tokens or heads, gets the sum of their gradients."""
    if not isinstance(parameter, DTensor):
        return parameter
    return _Shared.apply(parameter.to_local(), parameter.device_mesh) if parameter.placements[0].is_replicate() else parameter.to_local()


def shard_of(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor that no forward uses, such as a gradient or an optimizer's state."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather_tokens(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """From this rank's tokens to all of them, on the way into sharded heads or channels: the gradient is summed and cut again."""
    return x if tp is None else _Tokens.apply(x, tp, True)


def scatter_tokens(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """The sum of the ranks' parts, of which each keeps its own tokens; T must be divisible by the ranks."""
    return x if tp is None else _Tokens.apply(x, tp, False)


def sum_over_ranks(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """The sum of the ranks' parts, for a consumer that is the same on all ranks: the gradient passes as it is."""
    return x if tp is None else _Sum.apply(x, tp, False)


def sum_both_ways(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """The sum of the ranks' parts, for consumers that differ between the ranks: the gradient is summed as well."""
    return x if tp is None else _Sum.apply(x, tp, True)


def max_over_ranks(x: Tensor, tp: DeviceMesh | None) -> Tensor:
    """The elementwise maximum of the ranks' parts, without gradient."""
    return x.detach() if tp is None else _all_reduce(x.detach(), "max", tp)


def tokens_to_heads(x_BTNK: Tensor, cp: DeviceMesh | None) -> Tensor:
    """From a slice of the tokens with all heads to all tokens of a share of the heads."""
    return x_BTNK if cp is None else _Exchange.apply(x_BTNK, cp, HEADS, TOKENS)


def heads_to_tokens(x_BTNK: Tensor, cp: DeviceMesh | None) -> Tensor:
    """The way back."""
    return x_BTNK if cp is None else _Exchange.apply(x_BTNK, cp, TOKENS, HEADS)


def own_heads(parameter: Tensor, cp: DeviceMesh | None) -> Tensor:
    """The share of a parameter with heads outermost that `tokens_to_heads` gives this rank; FSDP sums the ranks' gradients."""
    return parameter if cp is None else parameter.chunk(cp.size())[cp.get_local_rank()]


class _Tokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: DeviceMesh, gathers: bool) -> Tensor:
        ctx.tp, ctx.gathers = tp, gathers
        return _gather(x, tp) if gathers else _scatter(x, tp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return (_scatter(grad, ctx.tp) if ctx.gathers else _gather(grad, ctx.tp)), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: DeviceMesh, both_ways: bool) -> Tensor:
        ctx.tp, ctx.both_ways = tp, both_ways
        return _all_reduce(x, "sum", tp)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return (_all_reduce(grad, "sum", ctx.tp) if ctx.both_ways else grad), None, None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tp: DeviceMesh) -> Tensor:
        ctx.tp = tp
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _all_reduce(grad, "sum", ctx.tp), None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cp: DeviceMesh, split: int, join: int) -> Tensor:
        ctx.cp, ctx.split, ctx.join = cp, split, join
        return _all_to_all(x, cp, split, join)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(grad, ctx.cp, ctx.join, ctx.split), None, None, None


def _gather(x_BTD: Tensor, tp: DeviceMesh) -> Tensor:
    ranks_B_TD = _ops.all_gather_into_tensor(x_BTD.contiguous(), tp.size(), _name(tp))
    return _ops.wait_tensor(ranks_B_TD).unflatten(0, (tp.size(), -1)).movedim(0, TOKENS).flatten(TOKENS, TOKENS + 1)


def _scatter(x_BTD: Tensor, tp: DeviceMesh) -> Tensor:
    ranks_B_TD = x_BTD.unflatten(TOKENS, (tp.size(), -1)).movedim(TOKENS, 0).flatten(0, 1).contiguous()
    return _ops.wait_tensor(_ops.reduce_scatter_tensor(ranks_B_TD, "sum", tp.size(), _name(tp)))


def _all_reduce(x: Tensor, how: str, tp: DeviceMesh) -> Tensor:
    return _ops.wait_tensor(_ops.all_reduce(x.contiguous(), how, _name(tp)))


def _all_to_all(x: Tensor, cp: DeviceMesh, split: int, join: int) -> Tensor:
    """Piece i along `split` goes to rank i; what arrives is put together along `join` in the order of the ranks."""
    pieces = torch.stack(x.chunk(cp.size(), split))
    one_each = [1] * cp.size()
    return torch.cat(_ops.wait_tensor(_ops.all_to_all_single(pieces, one_each, one_each, _name(cp))).unbind(), join)


def _name(ranks: DeviceMesh) -> str:
    return ranks.get_group().group_name
