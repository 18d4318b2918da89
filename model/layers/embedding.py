"""The input embedding, and where a rank's rows of the vocabulary are."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.declare import Parameter
from model.parallel.collectives import local, scatter_tokens


class Embedding(nn.Module):
    """tokens_BT, the same on all ranks, to x_BTD of this rank's tokens, in `dtype`.

    Each rank holds some rows of the vocabulary and contributes zeros for the others.
    """

    def __init__(self, declared: Parameter, tp: DeviceMesh | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(declared.shape))
        self.vocab_size, self.tp, self.dtype = declared.shape[0], tp, dtype

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
