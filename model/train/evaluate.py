"""What a model makes of text that it is not trained on."""

from collections.abc import Iterable

import torch
import torch.distributed as dist

from model.build import reshard
from model.layers.head import IGNORED
from model.lm import HybridLM
from model.parallel.mesh import Mesh
from model.train.batch import Batch


@torch.no_grad()
def mean_cross_entropy(model: HybridLM, batches: Iterable[Batch], *, chunk_tokens: int, mesh: Mesh | None) -> float:
    """Per valid token of all ranks' batches, the same on every rank. Changes nothing: neither parameters nor what is drawn at random."""
    sums = torch.zeros(2, dtype=torch.float64, device=next(model.parameters()).device)
    for batch in batches:
        _, (cross_entropy, _) = model.loss_sum(batch.tokens_BT, batch.labels_BT, batch.documents, z_loss=0.0, chunk_tokens=chunk_tokens)
        sums += torch.stack([cross_entropy.double(), (batch.labels_BT != IGNORED).sum().double()])
    reshard(model)  # FSDP does so in the backward, and none follows
    if mesh is not None:
        dist.all_reduce(sums)
    return float(sums[0] / sums[1].clamp(min=1))  # ranks along tp count all alike
