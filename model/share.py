"""One rank's part in a micro-batch, as the formulas of memory count it. Pure."""

from dataclasses import dataclass

from model.compute import ComputeConfig
from model.parallel.config import ParallelConfig

WIDE = 4
"""Bytes of an fp32: master weights, gradients, optimizer state, norms and gates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One rank's part in a micro-batch of `rows` × `seq_len` tokens."""

    parallel: ParallelConfig
    compute: ComputeConfig
    rows: int
    seq_len: int
    """Tokens of a row, those of all its cp ranks together."""
    narrow: int
    """Bytes of an element of the forward: 2 for bf16, 4 for fp32."""
    device_type: str

    @property
    def is_fused(self) -> bool:
        """Whether the small layers are our own kernels, which keep their inputs and nothing else: `kernels.operators.takes_kernels`."""
        return self.device_type == "cuda" and not self.compute.compile

    def norm(self, width: int) -> int:
        """Bytes per token that an RMSNorm saves: x; in plain torch x and x / rms in fp32, and 1 / rms."""
        return width * self.narrow if self.is_fused else (2 * width + 1) * WIDE

    def full_width_norm(self, width: int) -> int:
        """The same for a norm over all heads: where its sum of squares crosses tp ranks it is plain torch."""
        return self.norm(width) if self.parallel.tp == 1 else (2 * width + 1) * WIDE

    def of_tokens(self, bytes_per_token: float, *, whole: float = 0.0, multiple: int = 1) -> int:
        """Bytes of which the tp ranks share `bytes_per_token` (by tokens between the mixers, by heads inside), and each has `whole`.

        Rows are counted as filled up to a `multiple` of tokens.
        """
        tokens = self.rows * up_to_multiple(self.seq_len, multiple) / self.parallel.cp
        return round(tokens * (bytes_per_token / self.parallel.tp + whole))


def up_to_multiple(number: int, of: int) -> int:
    return -(-number // of) * of
