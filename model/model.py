"""The network: embedding, blocks of GDN or attention with a feed-forward, output head."""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from model.attention import Attention
from model.config import ModelConfig
from model.gdn import GatedDeltaNet
from model.layers import Embedding, Linear, RMSNorm, SwiGLU
from model.tensor_parallel import copy_to_ranks


class HybridLM(nn.Module):
    """tokens_BT to logits_BTX. With `tp`, its ranks see the same tokens, and the logits are a DTensor sharded over X.

    Built by `model.parallelize.build_model`, which shards and initialises it.
    """

    def __init__(self, config: ModelConfig, tp: DeviceMesh | None) -> None:
        super().__init__()
        self.embed = Embedding(config.vocab_size, config.d_model, tp)
        self.layers = nn.ModuleList(build_block(config, layer, tp) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = Linear(config.d_model, config.vocab_size)
        self.config, self.tp = config, tp

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embed(tokens_BT)
        for block in self.layers:
            x_BTD = block(x_BTD)
        logits_BTX = self.head(copy_to_ranks(self.norm(x_BTD), self.tp))
        if self.tp is None:
            return logits_BTX
        full_BTX = torch.empty(*logits_BTX.shape[:-1], self.config.vocab_size, device="meta")
        return DTensor.from_local(logits_BTX, self.tp, [Shard(-1)], run_check=False, shape=full_BTX.shape, stride=full_BTX.stride())


class PreNormBlock(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)): the GDN layers."""

    def __init__(self, config: ModelConfig, mixer: nn.Module, tp: DeviceMesh | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.mixer_norm = RMSNorm(config.d_model, config.norm_eps)
        self.ffn = SwiGLU(config.d_model, config.ffn_width, tp)
        self.ffn_norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD))
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class ReorderedNormBlock(PreNormBlock):
    """x + norm(mixer(x)), then x + norm(ffn(x)): the attention layers."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.mixer_norm(self.mixer(x_BTD))
        return x_BTD + self.ffn_norm(self.ffn(x_BTD))


def build_block(config: ModelConfig, layer: int, tp: DeviceMesh | None) -> nn.Module:
    if config.is_attention(layer):
        return ReorderedNormBlock(config, Attention(config, tp), tp)
    return PreNormBlock(config, GatedDeltaNet(config, tp), tp)
