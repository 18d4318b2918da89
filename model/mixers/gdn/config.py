"""Sizes of a Gated DeltaNet layer, and the backends that compute it. Pure."""

from dataclasses import dataclass, field
from typing import Literal

from model.kernels.delta_rule.sizes import TRITON_CONV_WIDTH, TRITON_KEY_DIMS, TRITON_VALUE_DIMS, Backend
from model.require import one_of, require_positive
from model.sizes import ModelSizes

BACKENDS = ("auto", "torch", "fla", "triton")
LATER = {"omit_default": True}
"""Metadata of a field that earlier versions did not have: stored configurations hold it only where it says something."""


@dataclass(frozen=True, kw_only=True)
class GdnConfig(ModelSizes):
    """Gated DeltaNet with negative eigenvalues (arXiv 2412.06464, 2411.12537)."""

    gdn_num_key_heads: int = field(default=0, metadata=LATER)
    """Heads of queries and keys; 0 for num_heads."""
    gdn_num_value_heads: int = field(default=0, metadata=LATER)
    """Heads of values, decays and betas, a multiple of the key heads, which groups of them share; 0 for as many as those."""
    gdn_key_dim: int = 0
    """Width of a query or key of one head."""
    gdn_value_dim: int = 0
    """Width of a value of one head."""
    gdn_norm_eps: float = 1e-5
    """Added to the mean square in the output norm."""
    conv_width: int = 4
    """Tokens that the convolutions of queries, keys and values see, the own one included."""
    gdn_backend: Literal["auto", "torch", "fla", "triton"] = "auto"
    """What computes the layer: our own Triton kernels, flash-linear-attention's, or plain torch. For auto see `backend_on`."""

    @property
    def key_heads(self) -> int:
        return self.gdn_num_key_heads or self.num_heads

    @property
    def value_heads(self) -> int:
        return self.gdn_num_value_heads or self.key_heads

    @property
    def key_width(self) -> int:
        """Channels of all queries, or all keys."""
        return self.key_heads * self.gdn_key_dim

    @property
    def value_width(self) -> int:
        """Channels of all values."""
        return self.value_heads * self.gdn_value_dim

    def backend_on(self, device_type: str) -> Backend:
        """`gdn_backend`, or for auto: on CUDA our own kernels, fla's for sizes that ours are not made for; plain torch elsewhere."""
        if self.gdn_backend != "auto":
            return self.gdn_backend
        if device_type != "cuda":
            return "torch"
        is_made_for = (
            self.gdn_key_dim in TRITON_KEY_DIMS and self.gdn_value_dim in TRITON_VALUE_DIMS and self.conv_width == TRITON_CONV_WIDTH
        )
        return "triton" if is_made_for else "fla"


def check_gdn(config: GdnConfig) -> None:
    """Raises ValueError for a layer that can't be."""
    for name in ("gdn_key_dim", "gdn_value_dim", "gdn_norm_eps", "conv_width"):
        require_positive("model", name, getattr(config, name))
    for name in ("gdn_num_key_heads", "gdn_num_value_heads"):
        if getattr(config, name) < 0:
            raise ValueError(f"model.{name}={getattr(config, name)}: negative; use 0 for the default")
    if config.value_heads % config.key_heads:
        raise ValueError(
            f"model.gdn_num_value_heads={config.value_heads}: not a multiple of {config.key_heads} key heads; "
            f"use {one_of([config.key_heads * times for times in (1, 2, 4)])}, or change model.gdn_num_key_heads"
        )
    if config.gdn_backend not in BACKENDS:
        raise ValueError(f"model.gdn_backend={config.gdn_backend}: no such kernel; use auto, torch, fla or triton")
    if config.gdn_backend == "triton":
        for name, sizes in (("gdn_key_dim", TRITON_KEY_DIMS), ("gdn_value_dim", TRITON_VALUE_DIMS), ("conv_width", (TRITON_CONV_WIDTH,))):
            if getattr(config, name) not in sizes:
                known = ", ".join(map(str, sizes))
                raise ValueError(f"model.{name}={getattr(config, name)}: model.gdn_backend=triton has kernels for {known}; use auto")
