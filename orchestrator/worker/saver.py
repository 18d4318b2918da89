"""When training's state is kept: in memory again and again, and as checkpoints. Every rank does the same after the same step."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from orchestrator.config import CheckpointConfig
from orchestrator.messages import Phase
from orchestrator.records.ledger import Ledger
from orchestrator.worker.agreement import on_first_rank
from orchestrator.worker.checkpoint import Checkpointer
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.pace import Pace
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.snapshots import Snapshots

CHECKPOINT_AWAITED_S = 1.0
"""How long training waits at most for what is in a checkpoint's way: the one before, or memory that is not ready."""
log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Saver:
    """One rank's. Ranks agree by votes that ride in each step's own reduction."""

    config: CheckpointConfig
    state: Mapping[str, Tensor]
    """What is kept."""
    snapshots: Snapshots
    checkpointer: Checkpointer
    pace: Pace
    exchange: Exchange
    """The main thread's."""
    reporter: Reporter
    ledger: Ledger | None
    """The first rank's; None on any other."""
    is_due: bool = False
    """A checkpoint is, that could not be taken yet."""
    is_late: bool = False
    """The last checkpoint that was due is, or was: then the next is not waited for either, or a slow store would slow every step."""

    def votes(self, step: int, *, step_s: float) -> tuple[float, float, float]:
        """This rank's, before a step of about `step_s` seconds: whether a snapshot is due after it, which the first one says by its clock;
        whether its memory is busy, or what it holds is not recorded yet; whether it still writes a checkpoint.
        """
        is_wanted = self.snapshots.survives and self.exchange.rank == 0
        if is_wanted:
            is_wanted = self.pace.wants(
                time.monotonic(),
                cost_s=self.snapshots.cost_s,
                sealed_after_s=self.snapshots.sealed_after_s,
                checkpoint_in_s=-step % self.config.every_steps * step_s,
                is_saving=self.checkpointer.is_saving,
            )
        return float(is_wanted), float(self.snapshots.is_busy or not self._is_recorded()), float(self.checkpointer.is_saving)

    def after(self, step: int, votes: Sequence[float], *, is_end: bool, is_finite: bool) -> bool:
        """Whether a checkpoint is taken, given what the votes sum up to; at the training's end it is, whatever it has to wait for.

        One that is due after a step whose numbers are not finite waits for the next whose are: the weights may be to blame.
        """
        is_wanted, num_busy, num_saving = votes
        was_due = self.is_due
        self.is_due |= is_end or step % self.config.every_steps == 0
        if not is_finite:
            return False
        if self.is_due and (is_end or num_busy + num_saving == 0 or self._ends_soon(step)):
            self._save(step, is_end=is_end)
            self.is_late = was_due
            return True
        if is_wanted and not num_busy:
            self.snapshots.take(step, self.state, spares_uploaded=num_saving > 0)
            self._note_taken()
        return False

    def save_end(self, step: int) -> None:
        """The last checkpoint, of an attempt that has nothing left to train: the one before it ended while it was written."""
        self._save(step, is_end=True)

    def _note_taken(self) -> None:
        """No attempt goes on from a snapshot before its steps are recorded."""
        self.pace.last_s = time.monotonic()
        if self.ledger is not None:
            self.ledger.hurry()

    def _is_recorded(self, *, within_s: float = 0.0) -> bool:
        """Whether the newest snapshot may be gone on from. Until then the one before is: it is not written over while the store is away."""
        return self.ledger is None or not self.snapshots.survives or self.ledger.is_durable(self.snapshots.newest_step, within_s=within_s)

    def _ends_soon(self, step: int) -> bool:
        """Whether nothing is in a checkpoint's way any more. It is waited for once, for a moment; then this one is late, and none is waited
        for until one is taken when it is due. All ranks know the same of that.
        """
        if step % self.config.every_steps:
            return False
        if not self.is_late and self._are_free_soon():
            return True
        self.is_late = True
        if self.checkpointer.is_saving:
            log.warning("the checkpoint of step %d is late: the one before is still being written; raise checkpoint.every_steps", step)
        elif not self._is_recorded():
            log.warning("the checkpoint of step %d is late: the ledger can't be written; is the store there?", step)
        else:
            log.info("the checkpoint of step %d is late: the memory for it is not ready yet", step)
        return False

    def _are_free_soon(self) -> bool:
        """Whether all ranks are."""
        are_free = self.exchange.gather(self._is_free_by(time.monotonic() + CHECKPOINT_AWAITED_S))
        return on_first_rank(self.exchange, lambda: all(are_free or []))

    def _is_free_by(self, ends_at_s: float) -> bool:
        def left_s() -> float:
            return max(0.0, ends_at_s - time.monotonic())

        return (
            self.checkpointer.ends_within(left_s()) and self.snapshots.are_ready_within(left_s()) and self._is_recorded(within_s=left_s())
        )

    def _save(self, step: int, *, is_end: bool) -> None:
        """Returns when training may go on; it waits for a save under way."""
        self.reporter.enter(Phase.SAVING)
        self.checkpointer.save(step, self.state)
        self.is_due = False
        self._note_taken()
        if not is_end:
            self.reporter.enter(Phase.TRAINING)
