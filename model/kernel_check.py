"""A kernel beside its definition: what a layer gives to the self-check."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.parallel.config import ParallelConfig

Compute = Callable[..., tuple[Tensor, ...]]
"""Tensors by name to outputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckTerms:
    """What a rank's kernels are checked for: they are compiled for its own heads and channels."""

    parallel: ParallelConfig
    device: torch.device
    is_packed: bool
    """Rows hold several documents, for which kernels have other variants."""
    num_tokens: int

    @property
    def num_head_ranks(self) -> int:
        """Ranks that share the heads."""
        return self.parallel.tp * self.parallel.cp

    def noise(self) -> Callable[..., Tensor]:
        """Makes normal tensors on the device from their sizes, in bf16 unless told; from a generator of its own, so the same each time."""
        generator = torch.Generator(self.device).manual_seed(0)

        def noise(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.randn(shape, generator=generator, device=self.device).to(dtype)

        return noise


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelCheck:
    """A kernel, or several that are only used together."""

    name: str
    compute: Compute
    """What the training runs."""
    exact: Compute
    """Its definition; it is given the same inputs in fp64."""
    inputs: dict[str, Tensor]
    """bf16 for what is bf16 in training, fp32 for the rest."""
    about: str = ""
    """What a report adds, such as the backend and the heads."""
