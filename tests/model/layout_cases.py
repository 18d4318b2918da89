"""One small model and batch, trained under any layout, and its numbers as plain tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from model.config import ModelConfig, OptimizerConfig, ParallelConfig
from model.loss import IGNORED
from model.model import HybridLM
from model.optim import build_optimizer
from model.parallelize import build_model
from model.step import StepResult, train_step
from model.titan import build_mesh

CPU = torch.device("cpu")
MODEL = ModelConfig(
    vocab_size=71, d_model=24, num_layers=2, attention_every=2, num_heads=4, head_dim=6, gdn_key_dim=5, gdn_value_dim=7, ffn_width=23
)
"""One layer of each type, four heads; vocabulary and feed-forward are odd, so that no layout cuts them evenly."""
OPTIMIZER = OptimizerConfig(lr=1e-2, warmup_steps=0, clip_norm=0.5, z_loss=1e-2, eps=1e-4)
NUM_ROWS, NUM_TOKENS = 8, 19


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a layout did: initial weights, then per step its result, and the clipped gradients and weights of the last."""

    initial: dict[str, Tensor]
    results: list[StepResult]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def train(parallel: ParallelConfig, dtype: torch.dtype, *, num_steps: int, num_micro: int = 2) -> Trained:
    """Trains on this rank's rows; the last global rows have few valid tokens, so data ranks have unequally many."""
    mesh = build_mesh(parallel, "cpu") if parallel.world_size > 1 else None
    model = build_model(MODEL, parallel, mesh, device=CPU, seed=3, compute_dtype=dtype)
    optimizer = build_optimizer(model, OPTIMIZER)
    initial = full(dict(model.named_parameters()))
    results = [
        train_step(model, optimizer, micro_batches(step, parallel, mesh, num_micro), lr=1e-2, config=OPTIMIZER, mesh=mesh)
        for step in range(1, num_steps + 1)
    ]
    return Trained(initial=initial, results=results, gradients=gradients(model), weights=full(dict(model.named_parameters())))


def micro_batches(step: int, parallel: ParallelConfig, mesh: DeviceMesh | None, num_micro: int) -> list[tuple[Tensor, Tensor]]:
    ids = torch.randint(0, MODEL.vocab_size, (NUM_ROWS, NUM_TOKENS + 1), generator=torch.Generator().manual_seed(step))
    tokens, labels = ids[:, :-1], ids[:, 1:].clone()
    labels[NUM_ROWS // 2 :, 2:] = IGNORED
    dp_rank = mesh.get_local_rank("dp_shard") if mesh is not None else 0
    mine = slice(dp_rank * NUM_ROWS // parallel.dp_shard, (dp_rank + 1) * NUM_ROWS // parallel.dp_shard)
    return list(zip(tokens[mine].chunk(num_micro), labels[mine].chunk(num_micro), strict=True))


def gradients(model: HybridLM) -> dict[str, Tensor]:
    return full({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})


def full(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone() for name, tensor in tensors.items()}


def worst_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative L2 distance of a tensor to its counterpart, and whose it is."""
    assert ours.keys() == theirs.keys()
    return max((((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-30)).item(), name) for name in ours)
