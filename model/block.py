"""One layer of the model: a mixer and a feed-forward, each with its norm and a residual around it."""

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from model.config import ModelConfig
from model.ffn.swiglu.layer import SwiGLU
from model.layers.norm import RMSNorm
from model.mixers.context import Context
from model.mixers.registry import MIXERS
from model.parameters import block_parameters


class Block(nn.Module):
    """x_BTD to out_BTD of this rank's tokens.

    Pre-norm, x + mixer(norm(x)), or reordered norm, x + norm(mixer(x)), as the kind of mixer has it; the feed-forward alike.
    """

    def __init__(self, config: ModelConfig, kind: str, *, tp: DeviceMesh | None, cp: DeviceMesh | None) -> None:
        super().__init__()
        declared = block_parameters(config, kind)
        self.mixer = MIXERS[kind].build(config, tp=tp, cp=cp)
        self.mixer_norm = RMSNorm(declared["mixer_norm.weight"], config.norm_eps)
        self.ffn = SwiGLU(config.d_model, config.ffn_width, tp)
        self.ffn_norm = RMSNorm(declared["ffn_norm.weight"], config.norm_eps)
        self.norm_first = MIXERS[kind].norm_first
        mixer_products, ffn_products = MIXERS[kind].kept_products, SwiGLU.kept_products
        self.kept_products = (*(f"mixer.{name}" for name in mixer_products), *(f"ffn.{name}" for name in ffn_products))
        self.kept_operators = MIXERS[kind].kept_operators()

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        if self.norm_first:
            x_BTD, normed_BTD = self.ffn_norm.of_sum(x_BTD, self.mixer(self.mixer_norm(x_BTD), context))
            return x_BTD + self.ffn(normed_BTD)
        x_BTD = self.mixer_norm.added_to(x_BTD, self.mixer(x_BTD, context))
        return self.ffn_norm.added_to(x_BTD, self.ffn(x_BTD))
