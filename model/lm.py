"""The network: embedding, blocks of a mixer with a feed-forward, output head."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from model.block import Block
from model.config import ModelConfig
from model.documents import Documents
from model.kernels.rotary.definition import rotary_tables
from model.layers.embedding import Embedding
from model.layers.gates import Gates
from model.layers.head import head_loss_sum
from model.layers.linear import Linear
from model.layers.norm import RMSNorm
from model.mixers.context import Context, Rotary
from model.mixers.registry import MIXERS
from model.parallel.collectives import gather_tokens, local
from model.parameters import model_parameters

CHECKPOINT_WRAPPER = "_checkpoint_wrapped_module."


class HybridLM(nn.Module):
    """tokens_BT to logits_BTX. Ranks of `tp` see the same tokens, and their logits are a DTensor sharded over X; T must be divisible by tp.
    Ranks of `cp` see successive slices of the rows; documents are those of the whole rows.

    Computes in `dtype`, with weights of that or wider. Built by `model.build.build_model`, which shards and initialises it.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, tp: DeviceMesh | None = None, cp: DeviceMesh | None = None) -> None:
        super().__init__()
        self.declared = declared = model_parameters(config)
        """What each parameter is, by name."""
        self.embed = Embedding(declared["embed.weight"], tp, dtype)
        self.layers = nn.ModuleList(Block(config, kind, tp=tp, cp=cp) for kind in config.layer_kinds)
        self.gates = Gates({layer: MIXERS[kind].gate_parameters(config) for layer, kind in enumerate(config.layer_kinds)})
        self.norm = RMSNorm(declared["norm.weight"], config.norm_eps)
        self.head = Linear(declared["head.weight"])
        self.config, self.tp, self.cp = config, tp, cp

    def forward(self, tokens_BT: Tensor, documents: Documents | None = None) -> Tensor:
        """Under FSDP either without gradients, or a backward must follow: else it goes on with the parameters of this call."""
        logits_BTX = self.head(self._hidden(tokens_BT, documents))
        if self.tp is None:
            return logits_BTX
        full_BTX = torch.empty(*logits_BTX.shape[:-1], self.config.vocab_size, device="meta")
        return DTensor.from_local(logits_BTX, self.tp, [Shard(-1)], run_check=False, shape=full_BTX.shape, stride=full_BTX.stride())

    def loss_sum(
        self, tokens_BT: Tensor, labels_BT: Tensor, documents: Documents | None = None, *, z_loss: float, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        """The sum of `layers.head.cross_entropy_sum` over this rank's tokens, without the logits of more than `chunk_tokens` at once; and
        its parts, cross-entropy and z-loss, shape (2,).

        For training: under FSDP a backward must follow.
        """
        x_BTD = self._hidden(tokens_BT, documents)
        return head_loss_sum(x_BTD, local(self.head.weight), labels_BT, z_loss=z_loss, chunk_tokens=chunk_tokens, tp=self.tp)

    def _hidden(self, tokens_BT: Tensor, documents: Documents | None) -> Tensor:
        """x_BTD of all tokens before the head."""
        if tokens_BT.ndim != 2:
            raise ValueError(f"tokens_BT: rows × tokens are wanted, found the shape {list(tokens_BT.shape)}; add a dimension of one row")
        if self.tp is not None and tokens_BT.shape[1] % self.tp.size():
            raise ValueError(
                f"{tokens_BT.shape[1]} tokens over parallel.tp={self.tp.size()}: not divisible; pad the rows, as model.train.batch does"
            )
        x_BTD = self.embed(tokens_BT)
        gates, rotary = self.gates(), self._rotary(tokens_BT, documents, torch.promote_types(x_BTD.dtype, torch.float32))
        for layer, block in enumerate(self.layers):
            x_BTD = block(x_BTD, Context(gate=gates.get(layer, ()), rotary=rotary, documents=documents))
        return gather_tokens(self.norm(x_BTD), self.tp)

    def _rotary(self, tokens_BT: Tensor, documents: Documents | None, dtype: torch.dtype) -> Rotary | None:
        if not self.config.rope_theta:
            return None
        num_tokens = tokens_BT.shape[1] * (self.cp.size() if self.cp is not None else 1)
        position = torch.arange(num_tokens, device=tokens_BT.device).unsqueeze(0) if documents is None else documents.position_BT
        return rotary_tables(position, head_dim=self.config.head_dim, theta=self.config.rope_theta, dtype=dtype)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter by its declared name: activation checkpointing wraps blocks, and adds nothing to their names here."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.replace(CHECKPOINT_WRAPPER, ""), parameter
