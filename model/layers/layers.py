"""The small layers: projections, norms, feed-forward, vocabulary-parallel embedding."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.kernels.norm import operator as norm_triton
from model.kernels.operators import takes_kernels
from model.kernels.swiglu import operator as swiglu_triton
from model.layers.projection import project
from model.parallel.collectives import gather_tokens, local, local_partial, scatter_tokens, sum_both_ways


def widen(x: Tensor) -> Tensor:
    """x in fp32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Linear(nn.Linear):
    """A bias-free projection by this rank's part of the weight."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__(in_width, out_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return project(x, local(self.weight))[0]


class RMSNorm(nn.Module):
    """x / rms(x) · weight of this rank's tokens, computed in fp32 and multiplied by the weight before the downcast."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = local_partial(self.weight).to(x.dtype)
        if takes_kernels(x):
            return norm_triton.rms_norm(x, weight, eps=self.eps)
        wide = widen(x)
        return (wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt() * widen(weight)).to(x.dtype)

    def of_sum(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x + y, and the norm of that."""
        if takes_kernels(x, y):
            return norm_triton.norm_of_sum(x, y, local_partial(self.weight).to(x.dtype), eps=self.eps)
        total = x + y
        return total, self(total)

    def added_to(self, x: Tensor, y: Tensor) -> Tensor:
        """x + the norm of y."""
        if takes_kernels(x, y):
            return norm_triton.add_norm(x, y, local_partial(self.weight).to(x.dtype), eps=self.eps)
        return x + self(y)


class FullWidthRMSNorm(nn.Module):
    """RMSNorm over all heads together, where each rank holds some of them: the sum of squares is that of the whole vector."""

    def __init__(self, width: int, eps: float, tp: DeviceMesh | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.width, self.eps, self.tp = width, eps, tp

    def forward(self, x: Tensor) -> Tensor:
        weight = local(self.weight).to(x.dtype)
        if self.tp is None and takes_kernels(x):
            return norm_triton.rms_norm(x, weight, eps=self.eps)
        wide = widen(x)
        mean_square = sum_both_ways(wide.square().sum(-1, keepdim=True), self.tp) / self.width
        return (wide * (mean_square + self.eps).rsqrt() * widen(weight)).to(x.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)), x_BTD to out_BTD of this rank's tokens; inside, the ranks share the F columns."""

    def __init__(self, d_model: int, ffn_width: int, tp: DeviceMesh | None) -> None:
        super().__init__()
        self.gate_proj = Linear(d_model, ffn_width)
        self.up_proj = Linear(d_model, ffn_width)
        self.down_proj = Linear(ffn_width, d_model)
        self.tp = tp

    def forward(self, x_BTD: Tensor) -> Tensor:
        gate_BTF, up_BTF = project(gather_tokens(x_BTD, self.tp), local(self.gate_proj.weight), local(self.up_proj.weight))
        return scatter_tokens(self.down_proj(swiglu(gate_BTF, up_BTF)), self.tp)


def swiglu(gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
    """silu(gate) · up."""
    return swiglu_triton.swiglu(gate_BTF, up_BTF) if takes_kernels(gate_BTF, up_BTF) else F.silu(gate_BTF) * up_BTF


class Embedding(nn.Module):
    """tokens_BT, the same on all ranks, to x_BTD of this rank's tokens.

    Each rank holds some rows of the vocabulary and contributes zeros for the others. x is of `dtype`.
    """

    def __init__(self, vocab_size: int, d_model: int, tp: DeviceMesh | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        self.vocab_size, self.tp, self.dtype = vocab_size, tp, dtype

    def forward(self, tokens_BT: Tensor) -> Tensor:
        if self.tp is None:
            return F.embedding(tokens_BT, local(self.weight)).to(self.dtype)
        row_BT, is_mine_BT = local_rows(tokens_BT, self.vocab_size, self.tp)
        return scatter_tokens(F.embedding(row_BT, local(self.weight)).to(self.dtype) * is_mine_BT.unsqueeze(-1), self.tp)


def local_rows(ids: Tensor, vocab_size: int, tp: DeviceMesh) -> tuple[Tensor, Tensor]:
    """Where `ids` are in this rank's rows of the vocabulary (0 where they aren't), and whether they are.

    The ranks hold ceil(vocab_size / tp) rows each, the last ones what is left: DTensor's Shard(0).
    """
    rows_per_rank = -(-vocab_size // tp.size())
    row = ids - tp.get_local_rank() * rows_per_rank
    is_mine = (row >= 0) & (row < rows_per_rank)
    return row.where(is_mine, 0), is_mine
