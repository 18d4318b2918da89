"""Held-out text, looked at now and then: the same samples every time, under every layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_pipeline.dataset.manifest import load_manifest
from data_pipeline.dataset.shards import lies_on_s3
from data_pipeline.read.batch import TokenBatch
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.store.open import open_beside
from data_pipeline.store.protocol import ObjectStore
from model.lm import HybridLM
from model.train.batch import Batch
from model.train.evaluate import mean_cross_entropy
from model.train.metrics import StepMetrics
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigMismatch
from orchestrator.worker.world import World

SEED = 0
"""Chooses the samples."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One rank's part. Make it with `build_evaluation`."""

    config: RunConfig
    loader: Loader
    bytes_per_token: float | None
    """Of the dataset's text; None where its manifest does not know."""

    def is_due(self, step: int) -> bool:
        """The last step is always looked at."""
        return step % self.config.eval.every_steps == 0 or step == self.config.train.num_steps

    def measured(
        self,
        metrics: StepMetrics,
        model: HybridLM,
        world: World,
        micro_batches: Callable[[TokenBatch, int], list[Batch]],
        looked_at: Callable[[], None],
    ) -> StepMetrics:
        """The metrics of a step with what the model makes of the held-out text after it; each batch that it has seen is told."""
        loss = mean_cross_entropy(
            model, self._batches(micro_batches, looked_at), chunk_tokens=self.config.compute.loss_chunk_tokens, mesh=world.mesh
        )
        bits = loss / math.log(2) / self.bytes_per_token if self.bytes_per_token else None
        return replace(metrics, eval_loss=loss, eval_bits_per_byte=bits)

    def _batches(self, micro_batches: Callable[[TokenBatch, int], list[Batch]], looked_at: Callable[[], None]) -> Iterator[Batch]:
        for number in range(self.config.eval.num_batches):
            yield from micro_batches(self.loader.read(number + 1), self.config.train.micro_rows)
            looked_at()


def build_evaluation(config: RunConfig, world: World, store: ObjectStore, cache_dir: Path) -> Evaluation | None:
    """None where the run has no held-out text. Raises ConfigMismatch, DataError, StoreError."""
    if not config.eval.dataset:
        return None
    manifest = load_manifest(store, config.eval.dataset, setting="eval.dataset")
    if problem := config.eval.problem_with(
        vocab_size=manifest.vocab_size, num_samples=manifest.num_samples(config.data.seq_len), config=config
    ):
        raise ConfigMismatch(problem)
    data = replace(
        config.data,
        dataset=config.eval.dataset,
        sources=(),
        phases=(),
        seed=SEED,
        packing="concat",
        shuffle="full",
        on_corrupt="fail",
        repetition_filter=False,
    )
    loader = build_loader(
        manifests=(manifest,),
        config=data,
        store=store,
        cache_dir=cache_dir,
        batch_rows=config.train.batch_rows,
        dp_rank=world.mesh.dp_rank,
        dp_size=config.parallel.dp,
        keeps_blocks=lies_on_s3(manifest, config.storage),
        elsewhere=open_beside(config.storage),
    )
    return Evaluation(config=config, loader=loader, bytes_per_token=manifest.bytes_per_token)
