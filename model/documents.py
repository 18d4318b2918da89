"""Where documents begin in packed rows: what attention, positions, convolution and recurrent state reset at."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Documents:
    """The documents of a batch of rows B × T, flattened to B · T tokens. Make it with `build_documents`."""

    offsets_P: Tensor
    """int32, on the device: where each document starts, then B · T. A row's start is a document's start."""
    offsets_cpu_P: Tensor
    """The same on the CPU, so that kernels which plan on the host need not wait for the device."""
    position_BT: Tensor
    """int64, on the device: tokens since the document's start."""
    max_length: int
    """Tokens of the longest document."""


def build_documents(offsets_P: Tensor, *, num_rows: int, num_tokens: int, device: torch.device) -> Documents:
    """From the offsets on the CPU (ascending, from 0 to num_rows · num_tokens, with every row's start among them).

    Raises ValueError for offsets that are not such.
    """
    offsets = offsets_P.to(torch.int64)
    lengths = offsets.diff()
    row_starts, end = torch.arange(num_rows + 1) * num_tokens, num_rows * num_tokens
    is_whole = offsets[0] == 0 and offsets[-1] == end and bool(torch.isin(row_starts, offsets).all())
    if not is_whole or bool((lengths <= 0).any()):
        raise ValueError(f"document offsets {offsets.tolist()[:8]}…: not ascending from 0 to {end} over every row's start")
    position = torch.arange(end) - offsets[:-1].repeat_interleave(lengths)
    cpu = offsets.to(torch.int32)
    return Documents(
        offsets_P=to_device(cpu, device),
        offsets_cpu_P=cpu,
        position_BT=to_device(position.view(num_rows, num_tokens), device),
        max_length=int(lengths.max()),
    )


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU's tensor that the host does not wait for: from pageable memory it would wait for all that the GPU has yet to do."""
    return (x.contiguous().pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def pad_offsets(offsets_P: Tensor, *, num_tokens: int, padded: int) -> Tensor:
    """The offsets once every row of `num_tokens` is filled up to `padded`: the filling joins the row's last document."""
    starts = offsets_P[:-1].to(torch.int64)
    moved = starts // num_tokens * padded + starts % num_tokens
    return F.pad(moved, (0, 1), value=int(offsets_P[-1]) // num_tokens * padded).to(offsets_P.dtype)
