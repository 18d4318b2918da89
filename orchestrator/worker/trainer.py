"""The training loop."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from data_pipeline.errors import ShardCorrupt
from data_pipeline.order.samples import digest_of_sums, digest_of_token_sums, sample_sums, token_sums
from data_pipeline.read.batch import TokenBatch
from data_pipeline.read.loader import Loader
from model.lm import HybridLM
from model.optim.adamw import AdamW
from model.optim.schedule import lr_at
from model.train.metrics import StepMetrics, log_words
from model.train.spikes import SpikeGuard
from model.train.step import train_step
from orchestrator.config import RunConfig
from orchestrator.errors import Diverged
from orchestrator.messages import DataUse, Ended, Outcome, Phase, Resumed, Source
from orchestrator.records.ledger import StepRecord
from orchestrator.worker.evaluation import Evaluation
from orchestrator.worker.feed import Fed, Feed, micro_batches_of
from orchestrator.worker.fenced import FencedAttempt
from orchestrator.worker.health import Health
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.saver import Saver
from orchestrator.worker.world import World

NUM_KEEPING_VOTES = 3
"""Of `Saver.votes`."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens per second over the last steps, and how long these waited for data."""

    ends: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=20))
    """When steps ended, and with how many tokens the run had been trained by then."""
    waits_s: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    """Of the step that ends with each; the first is not counted, since its beginning is not known."""

    def after_step(self, now_s: float, num_tokens: int) -> float:
        """0 after the first step, whose time is the kernels' compilation."""
        self.ends.append((now_s, num_tokens))
        (first_s, first), (last_s, last) = self.ends[0], self.ends[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    @property
    def step_s(self) -> float:
        """Of the last steps; 0 where it is not known."""
        (first_s, _), (last_s, _) = (self.ends[0], self.ends[-1]) if self.ends else ((0.0, 0), (0.0, 0))
        return (last_s - first_s) / (len(self.ends) - 1) if len(self.ends) > 1 else 0.0

    @property
    def wait_share(self) -> float:
        """Of the time between the first and the last of these ends."""
        elapsed_s = self.ends[-1][0] - self.ends[0][0] if self.ends else 0.0
        return min(1.0, (sum(self.waits_s) - self.waits_s[0]) / elapsed_s) if elapsed_s else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Where the time of a step went, as its record has it."""

    data_wait_s: float
    checkpoint_s: float
    """After the step before."""
    eval_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """Everything of one rank that is ready to train. Make it with `build.build_trainer`."""

    config: RunConfig
    world: World
    model: HybridLM
    optimizer: AdamW
    spikes: SpikeGuard | None
    loader: Loader
    feed: Feed
    evaluation: Evaluation | None
    attempt: FencedAttempt
    saver: Saver
    reporter: Reporter
    stop: threading.Event
    """Set when a graceful stop is asked for."""
    resumed: Resumed
    """After which step it goes on, and from where the state of that came."""
    setting: str
    """See `ledger.setting_of`."""
    throughput: Throughput = field(default_factory=Throughput)

    def run(self) -> Ended:
        """Trains to the last step or until a stop is asked for; returns when the last checkpoint is committed."""
        self.reporter.enter(Phase.WARMING)
        outcome, step, checkpoint_s = Outcome.FINISHED, self.resumed.step, 0.0
        health = Health(self.config.recovery, self.config.optimizer)
        for step in range(self.resumed.step + 1, self.config.train.num_steps + 1):
            self.saver.checkpointer.check()
            fed = self._fed(step)
            self.reporter.began(step)
            metrics, (num_stops, *sums) = self._train(step, fed)
            keeping, parts = sums[:NUM_KEEPING_VOTES], sums[NUM_KEEPING_VOTES:]
            metrics, eval_s = self._evaluated(step, metrics)
            spent = Spent(data_wait_s=self.throughput.waits_s[-1], checkpoint_s=checkpoint_s, eval_s=eval_s)
            self._record(step, metrics, parts, spent, tokens_per_s=self._report(step, metrics, parts))
            must_stop, is_last = num_stops > 0, step == self.config.train.num_steps
            self._check(health, step, metrics, is_last=is_last)
            began_s = time.monotonic()
            saved = self.saver.after(step, keeping, is_end=must_stop or is_last, is_finite=metrics.is_finite)
            checkpoint_s = time.monotonic() - began_s
            if saved and must_stop and not is_last:
                outcome = Outcome.STOPPED
                break
        if self.resumed.step == self.config.train.num_steps and self.resumed.source is not Source.STORE:
            self.saver.save_end(step)
        self._finish()
        return Ended(outcome=outcome, step=step)

    def _fed(self, step: int) -> Fed:
        asked_s = time.monotonic()
        fed = self.feed.batch(step)
        self.throughput.waits_s.append(time.monotonic() - asked_s)
        return fed

    def _train(self, step: int, fed: Fed) -> tuple[StepMetrics, list[float]]:
        """What the step measured, and what the ranks' votes sum up to."""
        config = self.config
        return train_step(
            self.model,
            self.optimizer,
            fed.micro_batches,
            lr=lr_at(step, config.optimizer, num_steps=config.train.num_steps, tokens_per_step=config.tokens_per_step),
            config=config.optimizer,
            chunk_tokens=config.compute.loss_chunk_tokens,
            mesh=self.world.mesh,
            spikes=self.spikes,
            votes=self._votes(step, fed.batch),
        )

    def _evaluated(self, step: int, metrics: StepMetrics) -> tuple[StepMetrics, float]:
        """The step's metrics, with what held-out text says where it is looked at, and how long that took."""
        if self.evaluation is None or not self.evaluation.is_due(step):
            return metrics, 0.0
        began_s = time.monotonic()
        place = partial(micro_batches_of, config=self.config, world=self.world)
        measured = self.evaluation.measured(metrics, self.model, self.world, place, looked_at=self.reporter.evaluated)
        return measured, time.monotonic() - began_s

    def _votes(self, step: int, batch: TokenBatch) -> list[float]:
        """Whether this rank is to stop, what the saver asks, the samples and tokens that it read, rows without a lesson: see `_record`."""
        first = self.loader.plan.position(step)
        rows = zip((first + row for row in self.loader.rank_rows(step)), batch.samples, batch.hashes, strict=True)
        speaks = self.world.speaks_for_its_rows
        own = list(rows) if speaks else []
        sums = (
            *sample_sums((position, sample) for position, sample, _ in own),
            *token_sums((position, tokens) for position, _, tokens in own),
            batch.num_unread * speaks,
            batch.num_repetitive * speaks,
            batch.num_unread,
        )
        return [float(self.stop.is_set()), *self.saver.votes(step, step_s=self.throughput.step_s), *map(float, sums)]

    def _report(self, step: int, metrics: StepMetrics, parts: Sequence[float]) -> float:
        """Tells the agent that the step is done, and returns tokens per second."""
        tokens_per_s = self.throughput.after_step(time.monotonic(), self.config.tokens_until(step))
        traffic, (unread, repetitive) = self.loader.traffic, parts[-3:-1]
        data = DataUse(
            fetched_bytes=traffic.fetched,
            used_bytes=traffic.used,
            wait_share=self.throughput.wait_share,
            unread_rows=int(unread),
            repetitive_rows=int(repetitive),
        )
        self.reporter.finished(step, metrics, tokens_per_s=tokens_per_s, data=data)
        return tokens_per_s

    def _record(self, step: int, metrics: StepMetrics, parts: Sequence[float], spent: Spent, *, tokens_per_s: float) -> None:
        """`parts` are the `sample_sums`, the `token_sums` and then the rows of which nothing is learnt, of all ranks together.

        Raises ShardCorrupt where ranks that share rows could not all read the same ones.
        """
        first, second, third, fourth, low, high, unread, repetitive, unread_by_all = map(int, parts)
        if unread_by_all != unread * self.world.ranks_per_row:
            raise ShardCorrupt(
                f"step {step}: of ranks that share rows only some can read them; look at their hosts and their way to the store"
            )
        if self.attempt.ledger is None:
            return
        record = StepRecord(
            step=step,
            attempt=self.attempt.number,
            samples=digest_of_sums((first, second, third, fourth)),
            token_digest=digest_of_token_sums((low, high)),
            unread_rows=unread,
            repetitive_rows=repetitive,
            layout=self.config.parallel,
            deterministic=self.config.train.deterministic,
            setting=self.setting,
            ended_at_s=time.time(),
            **asdict(spent),
            **asdict(metrics),
        )
        self.attempt.ledger.append(record)
        total = self.config.train.num_steps
        log.info("step %d/%d  %s  %.0f tokens/s", step, total, "  ".join(log_words(metrics)), tokens_per_s)
        if unread:
            log.warning("step %d: %d of its rows could not be read, nothing is learnt from them", step, unread)
        if metrics.skipped:
            log.warning("step %d: %s, its update is skipped", step, "a spike" if metrics.is_finite else "not finite")

    def _check(self, health: Health, step: int, metrics: StepMetrics, *, is_last: bool) -> None:
        """Raises Diverged, once the ledger has the steps that say why."""
        try:
            health.check(step, metrics, is_last=is_last)
        except Diverged:
            if self.attempt.ledger is not None:
                self.attempt.ledger.close()
            raise

    def _finish(self) -> None:
        self.saver.checkpointer.wait()
        self.feed.close()
        for loader in (self.loader, *((self.evaluation.loader,) if self.evaluation is not None else ())):
            loader.close()
        if self.attempt.ledger is not None:
            self.attempt.ledger.close()
