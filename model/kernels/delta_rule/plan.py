"""How flattened rows are cut into chunks that straddle neither a row's end nor a document's."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import to_device
from model.kernels.delta_rule.sizes import GDN_CHUNK


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkPlan:
    """The chunks Z of all documents, one after the other. Tensors are int32, on the device."""

    first_chunk_P: Tensor
    """Each document's first chunk, then the number of chunks."""
    start_Z: Tensor
    """Each chunk's first token, then the number of tokens: a chunk ends where the next one starts."""
    num_documents: int
    num_chunks: int


def plan_chunks(*, num_rows: int, num_tokens: int, offsets_cpu_P: Tensor | None, device: torch.device) -> ChunkPlan:
    """The chunks of `num_rows` rows of `num_tokens`, each one document where there are no offsets. Never waits for the device."""
    if offsets_cpu_P is None:
        return _plan_rows(num_rows, num_tokens, device)
    return _plan_documents(offsets_cpu_P, device)


def max_chunks(*, num_rows: int, num_tokens: int, offsets_cpu_P: Tensor | None) -> int:
    """How many chunks there are; with documents the most there can be, which the offsets' shape alone tells."""
    if offsets_cpu_P is None:
        return num_rows * -(-num_tokens // GDN_CHUNK)
    return num_rows * num_tokens // GDN_CHUNK + offsets_cpu_P.shape[0] - 1


@lru_cache(maxsize=16)
def _plan_rows(num_rows: int, num_tokens: int, device: torch.device) -> ChunkPlan:
    return _plan_documents(torch.arange(num_rows + 1) * num_tokens, device)


def _plan_documents(offsets_cpu_P: Tensor, device: torch.device) -> ChunkPlan:
    offsets = offsets_cpu_P.to(torch.int64)
    chunks_D = (offsets.diff() + GDN_CHUNK - 1) // GDN_CHUNK
    first_chunk_P = torch.cat([offsets.new_zeros(1), chunks_D.cumsum(0)])
    within_document_Z = torch.arange(int(first_chunk_P[-1])) - first_chunk_P[:-1].repeat_interleave(chunks_D)
    start_Z = offsets[:-1].repeat_interleave(chunks_D) + within_document_Z * GDN_CHUNK
    # In one copy; each begins at a multiple of 16 bytes, whatever the number of documents, so that kernels are compiled once.
    first_chunk_P = F.pad(first_chunk_P, (0, -len(first_chunk_P) % 4))
    plan = to_device(torch.cat([first_chunk_P, start_Z, offsets[-1:]]).to(torch.int32), device)
    first_chunk, start = plan.split([len(first_chunk_P), len(start_Z) + 1])
    return ChunkPlan(first_chunk_P=first_chunk[: len(chunks_D) + 1], start_Z=start, num_documents=len(chunks_D), num_chunks=len(start_Z))
