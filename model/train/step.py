"""One optimizer step."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from model.documents import to_device
from model.layers.head import IGNORED
from model.lm import HybridLM
from model.optim.adamw import AdamW
from model.optim.config import OptimizerConfig
from model.parallel.mesh import Mesh
from model.train.batch import Batch
from model.train.metrics import StepMetrics
from model.train.spikes import SpikeGuard


def train_step(
    model: HybridLM,
    optimizer: AdamW,
    batches: Sequence[Batch],
    *,
    lr: float,
    config: OptimizerConfig,
    chunk_tokens: int,
    mesh: Mesh | None,
    spikes: SpikeGuard | None = None,
    votes: Sequence[float] = (),
) -> tuple[StepMetrics, list[float]]:
    """What the step measured, and the sums over all ranks of their `votes`, in fp64: they cost no collective and no wait of their own.

    Accumulates the gradient of the micro-batches, clips it and steps. Waits for the gradient's norm, not for the update: while a GPU
    makes that, the host prepares what comes next. With `spikes` the update is not even queued before: they may skip it. Where loss or norm
    is not finite the device itself withholds the update, on every rank: all have the same numbers.

    Ranks along dp bring different rows, ranks along cp slices of the same rows, ranks along tp the same; all bring equally many
    micro-batches. Every valid token of the global batch weighs the same, however the valid ones are spread.
    """
    num_tokens = _summed(torch.stack([(batch.labels_BT != IGNORED).sum() for batch in batches]).sum(), mesh) // _num_copies(mesh)
    own_votes = to_device(torch.tensor(votes, dtype=torch.float64), num_tokens.device)
    optimizer.zero_grad()
    local_parts = _accumulate(model, batches, num_tokens, z_loss=config.z_loss, chunk_tokens=chunk_tokens)
    grad_norm = _grad_norm(model)
    sums = _summed(torch.cat([local_parts, own_votes]), mesh)
    numbers = torch.cat([sums[:2] / _num_copies(mesh), grad_norm.double().view(1), num_tokens.double().view(1), sums[2:]])
    if spikes is not None and mesh is not None:
        dist.broadcast(numbers, src=0)  # they have the same bits on every rank, but here a difference would part the ranks for good
    read = _read_back(numbers)
    is_spike = spikes is not None and spikes.skips(*read()[:3:2])
    if not is_spike:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        found_inf = (~numbers[:3].isfinite()).any().float()
        optimizer.step(grad_scale=torch.clamp(config.clip_norm / (grad_norm + 1e-6), max=1.0), found_inf=found_inf)
    cross_entropy, z, norm, tokens, *summed_votes = read()
    metrics = StepMetrics(loss=cross_entropy, z_loss=z, grad_norm=norm, tokens=int(tokens), skipped=is_spike)
    return replace(metrics, skipped=is_spike or not metrics.is_finite), summed_votes


def _accumulate(model: HybridLM, batches: Sequence[Batch], num_tokens: Tensor, *, z_loss: float, chunk_tokens: int) -> Tensor:
    """Adds up the gradients of the micro-batches; returns this rank's part of cross-entropy and z-loss, in fp64 and of shape (2,)."""
    local_parts = torch.zeros(2, dtype=torch.float64, device=num_tokens.device)
    for batch in batches:
        if isinstance(model, FSDPModule):
            model.set_requires_all_reduce(batch is batches[-1])  # between the replicas of HSDP, once is enough
        loss_sum, parts = model.loss_sum(batch.tokens_BT, batch.labels_BT, batch.documents, z_loss=z_loss, chunk_tokens=chunk_tokens)
        (loss_sum / num_tokens.clamp(min=1)).backward()
        local_parts += parts / num_tokens.clamp(min=1)
    return local_parts


def _grad_norm(model: nn.Module) -> Tensor:
    """The L2 norm of all gradients, with the same bits on every rank."""
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _read_back(numbers: Tensor) -> Callable[[], list[float]]:
    """Begins to copy them to the host; what is returned waits for that alone, not for what the GPU is given afterwards."""
    on_host = numbers.to("cpu", non_blocking=True)
    if not numbers.is_cuda:
        return on_host.tolist
    copied = torch.cuda.Event()
    copied.record()

    def read() -> list[float]:
        copied.synchronize()
        return on_host.tolist()

    return read


def _summed(value: Tensor, mesh: Mesh | None) -> Tensor:
    """The sum over all ranks; `value` itself is overwritten."""
    if mesh is not None:
        dist.all_reduce(value)
    return value


def _num_copies(mesh: Mesh | None) -> int:
    """How many ranks count the same token: those along tp."""
    return 1 if mesh is None else mesh.parallel.tp
