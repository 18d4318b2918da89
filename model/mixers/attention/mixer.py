"""Attention as kinds of mixer: over the whole row, or over a sliding window. Pure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from model.declare import Parameter
from model.mixers.attention import costs
from model.mixers.attention.config import AttentionConfig, check_attention
from model.share import Share

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from model.kernel_check import CheckTerms, KernelCheck


class AttentionMixer:
    """See `mixers.mixer.Mixer`. `is_windowed`: a token sees the last `window` tokens of the configuration, its own included."""

    part: ClassVar[str] = "attention mixers"
    kept_products: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")
    norm_first: ClassVar[bool] = False

    def __init__(self, *, is_windowed: bool) -> None:
        self._is_windowed = is_windowed

    def check(self, config: AttentionConfig) -> None:
        check_attention(config)

    def num_heads(self, config: AttentionConfig) -> int:
        return config.num_heads

    def parameters(self, config: AttentionConfig) -> dict[str, Parameter]:
        return costs.attention_parameters(config)

    def gate_parameters(self, config: AttentionConfig) -> dict[str, Parameter]:
        return {}

    def flops_per_token(self, config: AttentionConfig, seq_len: int) -> float:
        return costs.attention_flops_per_token(config, seq_len=seq_len, window=self._window(config) or seq_len)

    def saved_bytes(self, config: AttentionConfig, share: Share) -> int:
        return costs.attention_saved_bytes(config, share, window=self._window(config))

    def selected_bytes(self, config: AttentionConfig, share: Share) -> int:
        return costs.attention_selected_bytes(config, share)

    def runs_kernels(self, config: AttentionConfig, device_type: str) -> bool:
        return device_type == "cuda"

    def kept_operators(self) -> frozenset[Any]:
        from model.mixers.attention.layer import KEPT_OPERATORS

        return KEPT_OPERATORS

    def build(self, config: AttentionConfig, *, tp: "DeviceMesh | None", cp: "DeviceMesh | None") -> Any:
        from model.mixers.attention.layer import Attention

        return Attention(config, window=self._window(config), tp=tp, cp=cp)

    def checks(self, config: AttentionConfig, terms: "CheckTerms") -> "Iterator[KernelCheck]":
        from model.mixers.attention.checks import attention_checks

        return attention_checks(config, terms)

    def _window(self, config: AttentionConfig) -> int | None:
        return config.window if self._is_windowed else None
