"""One optimizer step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from model.config import OptimizerConfig
from model.loss import IGNORED, cross_entropy_sum
from model.model import HybridLM
from model.titan import clip_grad_norm_


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What a step did; the same on every rank."""

    loss: float
    """Mean per valid token of the global batch, before the update."""
    grad_norm: float
    """Global L2 norm before clipping."""
    num_tokens: int
    """Valid tokens of the global batch."""


def train_step(
    model: HybridLM,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[tuple[Tensor, Tensor]],
    *,
    lr: float,
    config: OptimizerConfig,
    mesh: DeviceMesh | None,
) -> StepResult:
    """Accumulates the gradient of the micro-batches (tokens_BT, labels_BT), clips it and steps; one host synchronisation, at the end.

    Ranks along dp_shard bring different rows, ranks along tp the same; all bring equally many micro-batches. Every valid token of
    the global batch weighs the same, however the valid ones are spread.
    """
    num_tokens = _sum_over_data(torch.stack([(labels != IGNORED).sum() for _, labels in micro_batches]).sum(), mesh)
    optimizer.zero_grad()
    local_loss = torch.zeros((), dtype=torch.float64, device=num_tokens.device)
    for tokens, labels in micro_batches:
        loss_sum, _ = cross_entropy_sum(model(tokens), labels, config.z_loss)
        loss = loss_sum / num_tokens.clamp(min=1)
        loss.backward()
        local_loss += loss.detach()
    grad_norm = clip_grad_norm_(model.parameters(), config.clip_norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    loss_value, norm_value, token_value = torch.stack([_sum_over_data(local_loss, mesh), grad_norm.double(), num_tokens.double()]).tolist()
    return StepResult(loss=loss_value, grad_norm=norm_value, num_tokens=int(token_value))


def _sum_over_data(value: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """The sum over the ranks that hold different rows; `value` itself is overwritten."""
    if mesh is not None:
        dist.all_reduce(value, group=mesh.get_group("dp_shard"))
    return value
