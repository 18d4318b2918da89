"""One small model and batch, trained under any layout, and its numbers as plain tensors."""

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.build import build_model
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.layers.head import IGNORED
from model.lm import HybridLM
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from model.parallel.mesh import Mesh, build_mesh
from model.train.batch import Batch, build_batches
from model.train.metrics import StepMetrics
from model.train.step import train_step

CPU = torch.device("cpu")
MODEL = ModelConfig(
    vocab_size=71,
    d_model=24,
    num_layers=3,
    layer_pattern="gdn attn window",
    window=6,
    num_heads=4,
    head_dim=6,
    gdn_key_dim=5,
    gdn_value_dim=7,
    ffn_width=23,
)
"""One layer of each kind, four heads; vocabulary, feed-forward and length are odd, so that no layout cuts them evenly."""
OPTIMIZER = OptimizerConfig(lr=1e-2, warmup_steps=0, clip_norm=0.5, z_loss=1e-2, eps=1e-4)
COMPUTE = ComputeConfig(loss_chunk_tokens=11)
NUM_ROWS, NUM_TOKENS = 8, 19
OFFSETS = torch.tensor([0, 1, 9, *range(19, 153, 19), 30, 31, 130]).sort().values.int()
"""Documents of one token and of many, within the rows."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained; the layout must not change its numbers."""

    dtype: torch.dtype = torch.float64
    model: ModelConfig = MODEL
    optimizer: OptimizerConfig = OPTIMIZER
    compute: ComputeConfig = COMPUTE
    is_packed: bool = True
    micro_rows: int = 1
    num_steps: int = 2
    device_type: str = "cpu"

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_type, dist.get_rank() if self.device_type == "cuda" else None)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a layout did: initial weights, then per step its result, and gradients (on a CPU clipped in place) and weights of the last."""

    initial: dict[str, Tensor]
    results: list[StepMetrics]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


def train(parallel: ParallelConfig, case: Case) -> Trained:
    """Trains on this rank's rows; the last global rows have few valid tokens, so data ranks have unequally many."""
    mesh = build_mesh(parallel, case.device_type) if parallel.world_size > 1 or case.dtype == torch.bfloat16 else None
    model = build_model(case.model, mesh, device=case.device, seed=3, compute=case.compute, compute_dtype=case.dtype)
    optimizer = build_optimizer(model, model.declared, case.optimizer)
    initial = full(dict(model.named_parameters()))
    results = [step_once(model, optimizer, step, mesh, case) for step in range(1, case.num_steps + 1)]
    return Trained(initial=initial, results=results, gradients=gradients(model), weights=full(dict(model.named_parameters())))


def step_once(
    model: HybridLM, optimizer: torch.optim.Optimizer, step: int, mesh: Mesh | None, case: Case, *, lr: float = 1e-2
) -> StepMetrics:
    chunk_tokens = case.compute.loss_chunk_tokens
    metrics, _ = train_step(model, optimizer, batches(step, mesh, case), lr=lr, config=case.optimizer, chunk_tokens=chunk_tokens, mesh=mesh)
    return metrics


def batches(step: int, mesh: Mesh | None, case: Case) -> list[Batch]:
    ids = torch.randint(0, case.model.vocab_size, (NUM_ROWS, NUM_TOKENS + 1), generator=torch.Generator().manual_seed(step))
    tokens, labels = ids[:, :-1], ids[:, 1:].clone()
    labels[NUM_ROWS // 2 :, 2:] = IGNORED
    dp, dp_rank = (mesh.parallel.dp, mesh.dp_rank) if mesh is not None else (1, 0)
    rows = NUM_ROWS // dp
    mine = slice(dp_rank * rows, (dp_rank + 1) * rows)
    start, end = mine.start * NUM_TOKENS, mine.stop * NUM_TOKENS
    offsets = OFFSETS[(start <= OFFSETS) & (end >= OFFSETS)] - start
    return build_batches(
        tokens_BT=tokens[mine],
        labels_BT=labels[mine],
        offsets_P=offsets if case.is_packed else None,
        micro_rows=case.micro_rows,
        mesh=mesh,
        device=case.device,
    )


def in_fp32(case: Case) -> Case:
    return replace(case, dtype=torch.float32)


def gradients(model: HybridLM) -> dict[str, Tensor]:
    return full({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})


def full(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone() for name, tensor in tensors.items()}


def worst_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """The largest relative L2 distance of a tensor to its counterpart, and whose it is."""
    assert ours.keys() == theirs.keys()
    return max((((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-30)).item(), name) for name in ours)
