"""OLMo-core 3.0, the peer: its Gated DeltaNet layer and its training step, on flash-linear-attention's kernels.

As in its script for pretraining Olmo Hybrid 7B, with what is fastest of it on one GPU: a micro-batch holds every row, and AdamW is the
fused one. FSDP has one rank, and attention is PyTorch's, for which the script takes the flash-attn package.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from bench.fla_guard import lift_fla_guard
from model.config import ModelConfig
from model.presets import PRESETS

FULL_PRECISION = ("A_log", "dt_bias")
"""Parameters of a layer that stay fp32."""


def build_peer_layer(*, d_model: int, num_heads: int, key_dim: int, value_dim: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """x_BTD to out_BTD, not compiled; with initial weights in `dtype`, but for FULL_PRECISION."""
    admit_olmo_core()
    from olmo_core.nn.attention.recurrent import GatedDeltaNet
    from olmo_core.nn.transformer.init import InitMethod

    layer: Any = GatedDeltaNet(
        d_model=d_model,
        n_heads=num_heads,
        head_dim=key_dim,
        expand_v=value_dim / key_dim,
        allow_neg_eigval=True,
        conv_size=4,
        init_device=str(device),
    )
    layer.init_weights(init_method=InitMethod.normal, d_model=d_model, block_idx=0, num_blocks=1)
    for name, parameter in layer.named_parameters():
        if name not in FULL_PRECISION:
            parameter.data = parameter.data.to(dtype)
    return layer


def measure_peer_step(*, num_layers: int, num_rows: int, num_tokens: int, num_steps: int, micro_rows: int | None = None) -> list[float]:
    """Seconds of each step of Olmo Hybrid 7B cut to `num_layers`, on random tokens; the first is a cold one.

    Once in a process, which has no process group yet. `micro_rows` of the rows at once, where memory is too small for all of them.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    config = peer_config(replace(PRESETS["olmo_hybrid_7b"], num_layers=num_layers))
    module = build_train_module(config, num_tokens=num_tokens, micro_rows=micro_rows or num_rows, device=device)
    tokens_BT = torch.randint(config.vocab_size, (num_rows, num_tokens), device=device)
    seconds = []
    for _ in range(num_steps):
        started_s = time.perf_counter()
        module.zero_grads()
        module.train_batch({"input_ids": tokens_BT})
        module.optim_step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started_s)
    dist.destroy_process_group()
    return seconds


def peer_config(ours: ModelConfig) -> Any:
    """A TransformerConfig in the sizes of ours: Olmo 3's blocks, GDN for attention in those that are `gdn`. No windows."""
    admit_olmo_core()
    from olmo_core.nn.attention import AttentionBackendName
    from olmo_core.nn.attention.recurrent import GatedDeltaNetConfig
    from olmo_core.nn.feed_forward import FeedForwardConfig
    from olmo_core.nn.transformer import TransformerConfig

    config = TransformerConfig.olmo3_7B(
        vocab_size=ours.vocab_size,
        n_layers=ours.num_layers,
        n_heads=ours.num_heads,
        head_dim=ours.head_dim,
        feed_forward=FeedForwardConfig(hidden_size=ours.ffn_width, bias=False),
        sliding_window=None,
        attn_backend=AttentionBackendName.torch,
    )
    mixer = GatedDeltaNetConfig(
        n_heads=ours.num_heads, head_dim=ours.gdn_key_dim, expand_v=ours.gdn_value_dim / ours.gdn_key_dim, allow_neg_eigval=True
    )
    config.d_model = ours.d_model
    config.block = {"gdn": config.block.replace(sequence_mixer=mixer), "attn": config.block}
    config.block_pattern = ours.layer_pattern.split()
    return config


def build_train_module(config: Any, *, num_tokens: int, micro_rows: int, device: torch.device) -> Any:
    """A TransformerTrainModule: fp32 weights, bf16 in FSDP's blocks, which are compiled on a GPU; cross-entropy with z-loss."""
    from olmo_core.config import DType
    from olmo_core.distributed.parallel import DataParallelType
    from olmo_core.optim import AdamWConfig, OptimGroupOverride
    from olmo_core.train.train_module import (
        TransformerDataParallelConfig,
        TransformerDataParallelWrappingStrategy,
        TransformerTrainModuleConfig,
    )

    undecayed = OptimGroupOverride(params=["embeddings.weight"], opts={"weight_decay": 0.0})
    module = TransformerTrainModuleConfig(
        rank_microbatch_size=micro_rows * num_tokens,
        max_sequence_length=num_tokens,
        optim=AdamWConfig(lr=1e-5, weight_decay=0.1, betas=(0.9, 0.95), group_overrides=[undecayed], fused=True),
        compile_model=True,
        dp_config=TransformerDataParallelConfig(
            name=DataParallelType.fsdp,
            param_dtype=DType.bfloat16,
            reduce_dtype=DType.float32,
            wrapping_strategy=TransformerDataParallelWrappingStrategy.blocks,
        ),
        z_loss_multiplier=1e-5,
        max_grad_norm=1.0,
    ).build(config.build(init_device="meta"), device=device)
    module._attach_trainer(Unattended())
    return module


class Unattended:
    """In the place of OLMo-core's trainer, whom a train module tells its metrics."""

    def record_metric(self, *told: object, **how: object) -> None:
        pass

    record_ce_loss = record_metric


def admit_olmo_core() -> None:
    """Before its first import: it compiles into the cache of this process, no cloud's client is needed, and fla's backward runs."""
    os.environ.setdefault("OLMO_DISABLE_PER_RANK_TRITON_CACHE", "1")
    try:
        import cached_path  # noqa: F401 it imports the clients of every cloud
    except ImportError:
        files, schemes = ModuleType("cached_path"), ModuleType("cached_path.schemes")
        client = type("Client", (), {"recoverable_errors": ()})
        vars(files).update(cached_path=None)
        vars(schemes).update(S3Client=client, SchemeClient=client, add_scheme_client=None)
        sys.modules.update({"cached_path": files, "cached_path.schemes": schemes})
    lift_fla_guard()
