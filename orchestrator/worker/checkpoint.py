"""Saving: a snapshot in memory at the step boundary, the rest beside training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.order.plan import Plan
from data_pipeline.store.protocol import MAY_PASS, ObjectStore, StoreError
from model.config import ModelConfig
from model.parallel.config import ParallelConfig
from orchestrator.errors import Diverged
from orchestrator.messages import CheckpointLost
from orchestrator.records.commit_log import Commit, CommitLog, count
from orchestrator.records.holds import doom, held_checkpoints
from orchestrator.records.keys import CHECKPOINTS, DOOMED, MANIFEST
from orchestrator.records.ledger import Ledger
from orchestrator.records.leftovers import remove_leftovers
from orchestrator.records.manifest import CheckpointManifest, DataPosition, FileDigest, TrainingTerms, write_manifest
from orchestrator.records.retention import directories_to_delete
from orchestrator.worker.agreement import Failure, failure_among, raise_failure, result_of
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.parts import Part, PartWriter
from orchestrator.worker.snapshots import Snapshot, Snapshots
from orchestrator.worker.training_state import not_finite_in

NUM_UPLOADS = 8
"""Files of a rank that are written at once."""
NUM_PARALLEL_DELETES = 16
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointTerms:
    """What is the same for every checkpoint of an attempt."""

    run: str
    attempt: int
    model: ModelConfig
    layout: ParallelConfig
    training_digest: str
    dataset_digest: str
    plan: Plan
    keep_latest: int


def _position_after(plan: Plan, step: int) -> DataPosition:
    position = plan.position(step + 1)
    if len(plan.sources) > 1 or len(plan.phases) > 1:
        return DataPosition(epoch=0, index=position)
    epoch, index = divmod(position, plan.table(0, plan.phases[0].seq_len).num_samples)
    return DataPosition(epoch=epoch, index=index)


class Committer:
    """Rank 0's part: makes an uploaded checkpoint count, and removes the ones that are no longer needed."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        terms: CheckpointTerms,
        commit_log: CommitLog,
        ledger: Ledger,
        on_commit: Callable[[int], None],
        on_loss: Callable[[CheckpointLost], None],
        tidy: Callable[[], None],
    ) -> None:
        self._store = store
        self._terms = terms
        self._commit_log = commit_log
        self._ledger = ledger
        self._on_commit = on_commit
        self._has_removed_leftovers = False
        self._on_loss = on_loss
        self._tidy = tidy

    def commit(self, step: int, files: Sequence[FileDigest]) -> None:
        """In this order: the records of its steps, the manifest, the commit; each durable before the next. Raises Fenced, StoreError."""
        self._ledger.flush(step)
        terms = self._terms
        manifest = CheckpointManifest(
            run=terms.run,
            attempt=terms.attempt,
            step=step,
            origin="trained",
            model=terms.model,
            training=TrainingTerms(
                data_position=_position_after(terms.plan, step),
                layout=terms.layout,
                training_digest=terms.training_digest,
                dataset_digest=terms.dataset_digest,
                order_digest=terms.plan.digest(step),
            ),
            files=tuple(sorted(files, key=lambda file: file.name)),
            torch_version=torch.__version__,
            created_at_s=time.time(),
        )
        self._commit_log.commit(write_manifest(self._store, manifest))
        log.info("checkpoint of step %d committed: %d files, %d bytes", step, len(files), sum(file.size_bytes for file in files))
        self._on_commit(step)

    def lose(self, step: int, failure: Failure) -> None:
        """Tells that the checkpoint of `step` came to nothing, while training goes on."""
        self._on_loss(CheckpointLost(step=step, ranks=failure.ranks, text=str(failure.error)))

    def retain(self) -> None:
        """Deletes what `directories_to_delete` says, manifests first, and once what earlier attempts left; and lets go of
        what the run began from. Failing to is not worth a run.

        Raises Fenced where a newer attempt has begun: what may be deleted is then its business.
        """
        self._ledger.compact(self._commit_log.trusted()[0].step)
        try:
            self._delete_old()
            if not self._has_removed_leftovers:
                remove_leftovers(self._store, attempt=self._terms.attempt)
                self._tidy()
                self._has_removed_leftovers = True
        except StoreError as error:
            log.warning("old checkpoints could not be removed, will try again after the next one: %s", error)

    def _delete_old(self) -> None:
        keys = [info.key for info in self._store.list(CHECKPOINTS)]
        committed = [entry for entry in self._commit_log.entries if isinstance(entry, Commit)]
        counting = count(self._commit_log.entries)
        directories = directories_to_delete(
            keys,
            committed=committed,
            trusted=counting.trusted,
            keep_latest=self._terms.keep_latest,
            attempt=self._terms.attempt,
            held=held_checkpoints(self._store) | counting.doubted,
        )
        for directory in directories:
            self._commit_log.check(self._terms.attempt)
            if doom(self._store, directory):
                self._delete(directory, [key for key in keys if key.startswith(directory)])

    def _delete(self, directory: str, keys: Sequence[str]) -> None:
        """The mark that says so goes last."""
        self._store.delete(directory + MANIFEST)
        with ThreadPoolExecutor(NUM_PARALLEL_DELETES) as pool:
            list(pool.map(self._store.delete, [key for key in keys if key != directory + DOOMED]))
        self._store.delete(directory + DOOMED)
        log.info("removed %s", directory)


class Checkpointer:
    """Every rank's part. One save at a time is under way; its errors show at the next step boundary, in `check`, `save` or `wait`.

    A store that is away or refuses costs the checkpoint, not the run: `check` and `save` drop a save that ended so, the first rank tells,
    and the next one tries again. Only `wait`, on which the end of training relies, raises it. All ranks do the same, since a save ends in
    the same error on every one.
    """

    def __init__(self, *, exchange: Exchange, committer: Committer | None, snapshots: Snapshots, parts: PartWriter) -> None:
        self._exchange = exchange
        self._committer = committer
        self._snapshots = snapshots
        self._parts = parts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[Failure | None] | None = None
        self._step = 0
        """Of the save under way."""

    @property
    def is_saving(self) -> bool:
        """Whether a save is under way."""
        return self._under_way is not None and not self._under_way.done()

    def save(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Returns once `state` may change again, after `Snapshots.before_update`; waits for a save under way."""
        self._finish_or_drop()
        taken = self._snapshots.take(step, state, is_uploaded=True)
        self._step, self._under_way = step, self._thread.submit(self._upload, step, taken)

    def check(self) -> None:
        """Raises what went wrong with a save that has ended, except what may pass."""
        if self._under_way is not None and self._under_way.done():
            self._finish_or_drop()

    def ends_within(self, timeout_s: float) -> bool:
        """Whether the save under way does. Raises nothing of it."""
        if self._under_way is None:
            return True
        return bool(wait([self._under_way], timeout_s).done)

    def wait(self) -> None:
        """Returns when no save is under way and the last one is committed. Raises what went wrong with it."""
        failure = self._finish()
        if failure is not None:
            raise_failure(self._exchange, failure)

    def _finish_or_drop(self) -> None:
        failure = self._finish()
        if failure is None:
            return
        if not isinstance(failure.error, MAY_PASS):
            raise_failure(self._exchange, failure)
        log.error(
            "a checkpoint is LOST, the store is away or refuses (step %d, rank %s); training goes on, the next checkpoint tries again: %s",
            self._step,
            ", ".join(map(str, failure.ranks)),
            failure.error,
        )
        if self._committer is not None:
            self._committer.lose(self._step, failure)

    def _finish(self) -> Failure | None:
        """Waits for the save under way; what the ranks agree is wrong with it."""
        under_way, self._under_way = self._under_way, None
        return under_way.result() if under_way is not None else None

    def _upload(self, step: int, taken: Future[Snapshot]) -> Failure | None:
        snapshot = taken.result()
        parts = self._parts.write(snapshot, check=lambda: _require_finite(snapshot))
        failure = self._exchange.broadcast(None if parts is None else self._complete(step, parts))
        if failure is None and self._committer is not None:
            self._committer.retain()
        return failure

    def _complete(self, step: int, parts: Sequence[Part | Exception]) -> Failure | None:
        """The first rank's part, when every rank has written its own."""
        written = [part for part in parts if isinstance(part, Part)]
        if len(written) < len(parts):
            return failure_among(parts)
        return failure_among([result_of(lambda: self._commit(step, written))])

    def _commit(self, step: int, parts: Sequence[Part]) -> None:
        assert self._committer is not None, "the first rank commits"
        self._committer.commit(step, self._parts.finish(step, parts))


def _require_finite(snapshot: Snapshot) -> None:
    """Raises Diverged: such a checkpoint is never committed, so that those before it stay."""
    if name := not_finite_in(snapshot.image.tensors):
        what = f"step {snapshot.held.step}: {name} is not finite, the checkpoint is not committed"
        raise Diverged(f"{what}; lower optimizer.lr or lengthen its warmup")


def build_checkpointer(
    store: ObjectStore,
    state: Mapping[str, Tensor],
    *,
    attempt: int,
    exchange: Exchange,
    committer: Committer | None,
    snapshots: Snapshots,
) -> Checkpointer:
    """For checkpoints of `state`; `exchange` is one that nothing else uses, `committer` is given on its first rank."""
    hands = ThreadPoolExecutor(NUM_UPLOADS, thread_name_prefix="upload")  # its own: a snapshot is digested while a checkpoint is written
    parts = PartWriter(store, state, attempt=attempt, exchange=exchange, hands=hands)
    return Checkpointer(exchange=exchange, committer=committer, snapshots=snapshots, parts=parts)
