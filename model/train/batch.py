"""Rows of tokens, cut for a layout: gradient accumulation, context parallelism, and lengths that every rank's share divides."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents, build_documents, pad_offsets, to_device
from model.layers.head import IGNORED
from model.parallel.mesh import Mesh


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a rank takes through the model at once, on its device."""

    tokens_BT: Tensor
    labels_BT: Tensor
    """-100 where there is nothing to learn."""
    documents: Documents | None
    """Documents of the whole rows, of which `tokens_BT` may be this rank's slice. None where each row is one document."""

    def used_on(self, stream: torch.cuda.Stream) -> None:
        """Keeps the memory until this stream, another than the one that filled it, is done with it."""
        documents = () if self.documents is None else (self.documents.offsets_P, self.documents.position_BT)
        for tensor in (self.tokens_BT, self.labels_BT, *documents):
            tensor.record_stream(stream)


def build_batches(
    *, tokens_BT: Tensor, labels_BT: Tensor, offsets_P: Tensor | None, micro_rows: int, mesh: Mesh | None, device: torch.device
) -> list[Batch]:
    """The micro-batches of the rows that this rank shares with its cp and tp peers; all on the CPU, `offsets_P` as in `build_documents`.

    Rows are filled up with token 0, which nothing before it sees and nobody learns from, until cp · tp divides their length.
    """
    num_rows, num_tokens = tokens_BT.shape
    num_slices = mesh.parallel.cp * mesh.parallel.tp if mesh is not None else 1
    padded = -(-num_tokens // num_slices) * num_slices
    micro_batches = [range(num_rows)[first : first + micro_rows] for first in range(0, num_rows, micro_rows)]
    tokens, labels = F.pad(tokens_BT, (0, padded - num_tokens)), F.pad(labels_BT, (0, padded - num_tokens), value=IGNORED)
    return [
        Batch(
            tokens_BT=to_device(_own_slice(tokens[rows.start : rows.stop], mesh), device),
            labels_BT=to_device(_own_slice(labels[rows.start : rows.stop], mesh), device),
            documents=None if offsets_P is None else _documents_of(rows, offsets_P, num_tokens, padded, device),
        )
        for rows in micro_batches
    ]


def _own_slice(x_BT: Tensor, mesh: Mesh | None) -> Tensor:
    return x_BT if mesh is None or mesh.cp is None else x_BT.chunk(mesh.cp.size(), 1)[mesh.cp.get_local_rank()]


def _documents_of(rows: range, offsets_P: Tensor, num_tokens: int, padded: int, device: torch.device) -> Documents:
    first, end = rows.start * num_tokens, rows.stop * num_tokens
    offsets = offsets_P[(offsets_P >= first) & (offsets_P <= end)] - first
    offsets = pad_offsets(offsets, num_tokens=num_tokens, padded=padded)
    return build_documents(offsets, num_rows=len(rows), num_tokens=padded, device=device)
