"""Loading: the newest committed checkpoint that verifies, or the one before, loudly."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from data_pipeline.object_store import ObjectStore
from orchestrator.messages import Resumed
from orchestrator.worker.agreement import on_every_rank, on_first_rank, unwrapped
from orchestrator.worker.attempt import Attempt
from orchestrator.worker.checkpoint_store import StoreReader, check_fits, open_checkpoint
from orchestrator.worker.commit_log import Commit
from orchestrator.worker.errors import CheckpointCorrupt, ConfigMismatch, NoCheckpoint
from orchestrator.worker.manifest import CheckpointManifest, read_manifest, still_there

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumer:
    """Every rank's part. `group` is a gloo group."""

    store: ObjectStore
    group: dist.ProcessGroup
    attempt: Attempt
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
        return still_there(trusted, {info.key for info in self.store.list("checkpoints/")})

    def _reject(self, commit: Commit, reason: str) -> None:
        assert self.attempt.commit_log is not None, "only the first rank writes it"
        self.attempt.commit_log.reject(commit, reason, attempt=self.attempt.number)

    def _load(self, commit: Commit, state: dict[str, Tensor]) -> None:
        manifest = on_first_rank(self.group, lambda: self._read_manifest(commit))
        reader = on_every_rank(self.group, lambda: self._open(manifest, state))
        unwrapped(lambda: dcp.load(state, storage_reader=reader, process_group=self.group))

    def _read_manifest(self, commit: Commit) -> CheckpointManifest:
        manifest = read_manifest(self.store, commit)
        if manifest.training_digest != self.training_digest:
            raise ConfigMismatch(
                f"run {manifest.run}: model, data, optimizer, train.batch_rows or train.seed differs from what the checkpoint of step "
                f"{manifest.step} was trained with; restore them, or start a new run under another name"
            )
        if manifest.dataset_digest != self.dataset_digest:
            raise ConfigMismatch(
                f"run {manifest.run}: its dataset was rebuilt under the same name after the checkpoint of step {manifest.step}; "
                "restore the dataset's old manifest and shards, or start a new run under another name"
            )
        return manifest

    def _open(self, manifest: CheckpointManifest, state: dict[str, Tensor]) -> StoreReader:
        reader = open_checkpoint(self.store, manifest)
        check_fits(reader.metadata, state, step=manifest.step)
        return reader


def _none_left(why: str) -> str:
    remedy = "restore its files from the bucket's versions or a backup, or start a new run"
    return f"no committed checkpoint of this run can be used ({why}); {remedy}"
