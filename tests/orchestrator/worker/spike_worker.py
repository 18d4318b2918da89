"""A worker whose rank 1 meets a spike: at step 6 its loss, and so every gradient, is far too large, or what SPIKE times it is; at the steps
of SPIKE_STEPS, where these are given. Started like a worker."""

import os

from torch import Tensor

from data_pipeline.read.batch import TokenBatch
from model.lm import HybridLM
from model.train.metrics import StepMetrics
from orchestrator.worker.main import main
from orchestrator.worker.trainer import Trainer

SPIKE_STEP = 6
train, loss_sum = Trainer._train, HybridLM.loss_sum
under_way: list[int] = []
FACTOR = float(os.environ.get("SPIKE", "1000"))
STEPS = [int(step) for step in os.environ.get("SPIKE_STEPS", str(SPIKE_STEP)).split()]


def train_and_tell(self: Trainer, step: int, batch: TokenBatch) -> tuple[StepMetrics, list[float]]:
    under_way.append(step)
    return train(self, step, batch)


def spiking_loss_sum(self: HybridLM, *args: object, **kwargs: object) -> tuple[Tensor, ...]:
    is_spike = under_way[-1] in STEPS and os.environ["RANK"] == "1"
    factor = FACTOR if is_spike else 1
    return tuple(part * factor for part in loss_sum(self, *args, **kwargs))  # type: ignore[arg-type]


if __name__ == "__main__":
    Trainer._train = train_and_tell  # type: ignore[method-assign]
    HybridLM.loss_sum = spiking_loss_sum  # type: ignore[method-assign]
    main()
