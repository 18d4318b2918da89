"""The sizes that our delta rule kernels are made for, and the ways to compute the rule. Pure: importing this costs no torch."""

from typing import Literal

Backend = Literal["torch", "fla", "triton"]
"""How the delta rule is computed: in plain torch, by flash-linear-attention's kernels, or by our own in Triton."""
GDN_CHUNK = 64
"""Tokens per chunk, in every backend."""
TRITON_KEY_DIMS = (*range(32, 129, 16), 256)
"""Widths K of a key head that our Triton kernels take."""
TRITON_VALUE_DIMS = range(16, 257, 16)
"""Widths V of a value head that our Triton kernels take."""
TRITON_CONV_WIDTH = 4
"""Tokens W that our Triton convolution reaches over, the token's own included."""
