"""Loading: the newest committed checkpoint that verifies, or the one before, loudly; or another run's, to begin from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

from data_pipeline.store.protocol import ObjectStore
from orchestrator.config import RunConfig
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, NoCheckpoint
from orchestrator.messages import Resumed
from orchestrator.records.commit_log import Commit
from orchestrator.records.keys import CHECKPOINTS
from orchestrator.records.manifest import CheckpointManifest, read_manifest
from orchestrator.records.origin import find_start, start_store
from orchestrator.records.retention import still_there
from orchestrator.worker.agreement import on_every_rank, on_first_rank, unwrapped
from orchestrator.worker.dcp import StoreReader, check_begins, check_fits, open_checkpoint
from orchestrator.worker.fenced import FencedAttempt

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumer:
    """Every rank's part. `group` is a gloo group."""

    store: ObjectStore
    group: dist.ProcessGroup
    attempt: FencedAttempt
    training_digest: str
    dataset_digest: str

    def load_latest(self, prepare_state: Callable[[], dict[str, Tensor]]) -> Resumed:
        """Loads into the tensors of `prepare_state`, which is called only if there is something to load; step 0 says that there was not.

        Raises ConfigMismatch, NoCheckpoint, StoreError, the same on every rank.
        """
        candidates = on_first_rank(self.group, self._candidates)
        if not candidates:
            return Resumed(step=0)
        state = prepare_state()
        rejected: list[str] = []
        for commit in candidates:
            try:
                self._load(commit, state)
            except CheckpointCorrupt as error:
                rejected.append(f"checkpoint of step {commit.step} (attempt {commit.attempt}) refused: {error}")
                log.error("%s", rejected[-1])
                on_first_rank(self.group, partial(self._reject, commit, str(error)))
                continue
            log.info("resumed from the checkpoint of step %d (attempt %d)", commit.step, commit.attempt)
            return Resumed(step=commit.step, rejected=tuple(rejected))
        raise NoCheckpoint(_none_left(rejected[-1]))

    def _candidates(self) -> list[Commit]:
        commit_log = self.attempt.commit_log
        assert commit_log is not None, "only the first rank reads it"
        trusted = commit_log.trusted()
        if not trusted and any(isinstance(entry, Commit) for entry in commit_log.entries):
            raise NoCheckpoint(_none_left("all were refused by earlier attempts"))
        return still_there(trusted, {info.key for info in self.store.list(CHECKPOINTS)})

    def _reject(self, commit: Commit, reason: str) -> None:
        assert self.attempt.commit_log is not None, "only the first rank writes it"
        self.attempt.commit_log.reject(commit, reason, attempt=self.attempt.number)

    def _load(self, commit: Commit, state: dict[str, Tensor]) -> None:
        manifest = on_first_rank(self.group, lambda: self._read_manifest(commit))
        load_state(self.store, self.group, manifest, state, lambda metadata: check_fits(metadata, state, step=manifest.step))

    def _read_manifest(self, commit: Commit) -> CheckpointManifest:
        manifest = read_manifest(self.store, commit)
        if manifest.training is None:
            raise ConfigMismatch(
                f"run {manifest.run}: holds weights only ({manifest.origin}); "
                f"train from them with start.run={manifest.run} under another name"
            )
        if manifest.training.training_digest != self.training_digest:
            raise ConfigMismatch(
                f"run {manifest.run}: model, data, optimizer, start, train.batch_rows or train.seed differs from what the checkpoint "
                f"of step {manifest.step} was trained with; restore them, or start a new run under another name"
            )
        if manifest.training.dataset_digest != self.dataset_digest:
            raise ConfigMismatch(
                f"run {manifest.run}: its dataset was rebuilt under the same name after the checkpoint of step {manifest.step}; "
                "restore the dataset's old manifest and shards, or start a new run under another name"
            )
        return manifest


def load_start(store: ObjectStore, group: dist.ProcessGroup, config: RunConfig, state: dict[str, Tensor]) -> None:
    """Every rank's part in beginning from another run: loads into all of `state`. `store` is the storage root, `group` a gloo group.

    Raises NoCheckpoint, ConfigMismatch, StoreError, the same on every rank.
    """
    manifest = on_first_rank(group, lambda: find_start(store, config))
    start = f"start.run={manifest.run}, step {manifest.step}"
    try:
        load_state(start_store(store, config), group, manifest, state, lambda metadata: check_begins(metadata, state, start=start))
    except CheckpointCorrupt as error:
        raise NoCheckpoint(f"{start}: {error}; choose another checkpoint with start.step=N") from error
    log.info("begins from step %d of run %s (%s), %d tensors", manifest.step, manifest.run, manifest.origin, len(state))


def load_state(
    run_store: ObjectStore,
    group: dist.ProcessGroup,
    manifest: CheckpointManifest,
    state: dict[str, Tensor],
    check: Callable[[Metadata], None],
) -> None:
    """Every rank's part: into the tensors of `state`, sharded or not, once `check` found no fault. Raises CheckpointCorrupt, StoreError."""

    def open_checked() -> StoreReader:
        reader = open_checkpoint(run_store, manifest)
        check(reader.metadata)
        return reader

    reader = on_every_rank(group, open_checked)
    unwrapped(lambda: dcp.load(state, storage_reader=reader, process_group=group))


def _none_left(why: str) -> str:
    remedy = "restore its files from the bucket's versions or a backup, or start a new run"
    return f"no committed checkpoint of this run can be used ({why}); {remedy}"
