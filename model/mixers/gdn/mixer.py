"""Gated DeltaNet as a kind of mixer. Pure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from model.declare import Parameter
from model.mixers.gdn import costs
from model.mixers.gdn.config import GdnConfig, check_gdn
from model.share import Share

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from model.kernel_check import CheckTerms, KernelCheck


class GdnMixer:
    """See `mixers.mixer.Mixer`."""

    part: ClassVar[str] = "GDN mixers"
    kept_products: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj", "a_proj")  # a_proj stands for the joint product of a and b
    norm_first: ClassVar[bool] = True

    def check(self, config: GdnConfig) -> None:
        check_gdn(config)

    def num_heads(self, config: GdnConfig) -> int:
        return config.key_heads

    def parameters(self, config: GdnConfig) -> dict[str, Parameter]:
        return costs.gdn_parameters(config)

    def gate_parameters(self, config: GdnConfig) -> dict[str, Parameter]:
        return costs.gdn_gate_parameters(config)

    def flops_per_token(self, config: GdnConfig, seq_len: int) -> float:
        return costs.gdn_flops_per_token(config)

    def saved_bytes(self, config: GdnConfig, share: Share) -> int:
        return costs.gdn_saved_bytes(config, share)

    def selected_bytes(self, config: GdnConfig, share: Share) -> int:
        return costs.gdn_selected_bytes(config, share)

    def runs_kernels(self, config: GdnConfig, device_type: str) -> bool:
        return config.backend_on(device_type) != "torch"

    def kept_operators(self) -> frozenset[Any]:
        from model.mixers.gdn.layer import KEPT_OPERATORS

        return KEPT_OPERATORS

    def build(self, config: GdnConfig, *, tp: "DeviceMesh | None", cp: "DeviceMesh | None") -> Any:
        from model.mixers.gdn.layer import GatedDeltaNet

        return GatedDeltaNet(config, tp=tp, cp=cp)

    def checks(self, config: GdnConfig, terms: "CheckTerms") -> "Iterator[KernelCheck]":
        from model.mixers.gdn.checks import gdn_checks

        return gdn_checks(config, terms)
