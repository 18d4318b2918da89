"""A snapshot of training's state in host memory, which is allocated once and used again by every later snapshot."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class Stager:
    """For one snapshot at a time: the next one overwrites it. `device` is where the state lives; for cuda the host memory is pinned."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}

    def stage(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns when everything is copied. A DTensor's copy is a DTensor of the same sharding, so that DCP plans the same files."""
        snapshot = {name: self._copy(name, tensor.detach()) for name, tensor in state.items()}
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return snapshot

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        on_cuda = self._device.type == "cuda"
        if name not in self._buffers:
            self._buffers[name] = torch.empty_like(local, device="cpu", pin_memory=on_cuda)
        buffer = self._buffers[name].copy_(local, non_blocking=on_cuda)
        # from_local would move the copy to the mesh's device
        return DTensor(buffer, tensor._spec, requires_grad=False) if isinstance(tensor, DTensor) else buffer
