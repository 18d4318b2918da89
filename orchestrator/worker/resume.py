"""Loading: the newest committed checkpoint that verifies, or the one before, loudly; or another run's, to begin from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata

from data_pipeline.store.protocol import ObjectStore
from orchestrator.config import RunConfig
from orchestrator.errors import CheckpointCorrupt, ConfigMismatch, Diverged, NoCheckpoint
from orchestrator.messages import Resumed, Source
from orchestrator.records.commit_log import Commit, Snapshot
from orchestrator.records.holds import hold_start
from orchestrator.records.keys import CHECKPOINTS, manifest_key
from orchestrator.records.lineage import may_go_on_from, newest_recorded
from orchestrator.records.manifest import CheckpointManifest, read_manifest
from orchestrator.records.origin import start_store, unusable_start
from orchestrator.records.retention import still_there
from orchestrator.worker.agreement import Failure, on_first_rank, raise_failure, try_on_every_rank
from orchestrator.worker.dcp import check_begins, check_fits, load_into, open_checkpoint
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.fenced import FencedAttempt
from orchestrator.worker.snapshots import Snapshot as MemorySnapshot
from orchestrator.worker.snapshots import Snapshots, newest_common
from orchestrator.worker.training_state import not_finite_in
from orchestrator.worker.witness import Complaint, Witnesses

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resumer:
    """Every rank's part."""

    run: str
    store: ObjectStore
    """The run's own."""
    witnesses: Witnesses
    attempt: FencedAttempt
    training_digest: str
    dataset_digest: str
    order_digest: Callable[[int], str]
    """Of the order up to a step."""

    def load_latest(self, state: dict[str, Tensor], snapshots: Snapshots) -> Resumed:
        """Loads into `state` what is newest, of the snapshots and of the checkpoints; step 0 says that there was nothing to load.

        Raises ConfigMismatch, NoCheckpoint, StoreError, the same on every rank where all meet it; HostCorrupts where it is this host's
        fault, CheckpointCorrupt, DecodeError, ConfigMismatch or StoreError where it may be, PeerFailed where it is another's.
        """
        exchange = self.witnesses.exchange
        rejected: list[str] = []
        if (found := self._load_snapshot(state, snapshots, rejected)) is not None:
            step, source = found
            return Resumed(step=step, rejected=tuple(rejected), source=source)
        candidates = on_first_rank(exchange, self._candidates)
        if not candidates:
            return Resumed(step=0, rejected=tuple(rejected))
        for commit in candidates:
            failure = try_on_every_rank(exchange, partial(self._load, commit, state))
            if failure is None:
                log.info("resumed from the checkpoint of step %d (attempt %d)", commit.step, commit.attempt)
                return Resumed(step=commit.step, rejected=tuple(rejected))
            complaint = _complaint(failure, exchange)
            verdict = self._judge(commit, complaint, is_last=commit is candidates[-1])
            rejected.append(f"checkpoint of step {commit.step} (attempt {commit.attempt}) {verdict}: {complaint.error}")
            log.error("%s", rejected[-1])
        raise NoCheckpoint(_none_left(self.run, rejected[-1]))

    def _load_snapshot(self, state: dict[str, Tensor], snapshots: Snapshots, rejected: list[str]) -> tuple[int, Source] | None:
        """The step of the newest snapshot that every rank has, that may be gone on from, and that loads; and where it was."""
        exchange = self.witnesses.exchange
        whole = {one.held.name: one for one in snapshots.whole()}
        everyones = exchange.gather({name: one.is_fetched for name, one in whole.items()})
        for name, source in on_first_rank(exchange, lambda: self._usable(everyones or [], rejected)):
            failure = try_on_every_rank(exchange, partial(snapshots.check, whole[name]))
            attempt, step = name
            if failure is None:
                failure = try_on_every_rank(exchange, partial(_take, snapshots, whole[name], state))
            if failure is None:
                on_first_rank(exchange, partial(self._go_on, Snapshot(attempt=attempt, step=step)))
                log.info("resumed from the snapshot of step %d (attempt %d) in %s", step, attempt, source.value)
                return step, source
            rejected.append(f"snapshot of step {step} (attempt {attempt}) passed over, rank {failure.rank}: {failure.error}")
            log.error("%s", rejected[-1])
        return None

    def _usable(self, everyones: Sequence[Mapping[tuple[int, int], bool]], rejected: list[str]) -> list[tuple[tuple[int, int], Source]]:
        """The snapshots, by attempt and step, that every rank has and that lie on the run's history behind its last checkpoint.

        Each rank tells which it has, and whether from another node. Those that lie beyond what was recorded are told in `rejected`.
        """
        commit_log = self.attempt.commit_log
        assert commit_log is not None, "only the first rank reads it"
        common = list(newest_common([tuple(whole) for whole in everyones]))
        committed = max((commit.step for commit in commit_log.trusted()), default=0)
        if not common:
            return []
        recorded = newest_recorded(self.store, before=self.attempt.number, since_step=max(0, committed - 1))
        usable = [name for name in common if name[1] >= committed and may_go_on_from(name, recorded, commit_log.entries)]
        for attempt, step in common:
            if recorded is not None and attempt == recorded.attempt and step > recorded.step:
                rejected.append(f"snapshot of step {step} (attempt {attempt}) passed over: steps after {recorded.step} were not recorded")
                log.warning("%s", rejected[-1])
        return [(name, Source.OTHER_MEMORY if any(whole[name] for whole in everyones) else Source.MEMORY) for name in usable]

    def _go_on(self, snapshot: Snapshot) -> None:
        commit_log = self.attempt.commit_log
        assert commit_log is not None, "only the first rank writes it"
        commit_log.go_on(self.attempt.number, snapshot=snapshot)

    def _judge(self, commit: Commit, complaint: Complaint, *, is_last: bool) -> str:
        """Refuses the checkpoint where another node finds it broken too, and says so; on the word of one host it is only passed over."""
        is_confirmed = self.witnesses.confirm(self.store, complaint)
        if not is_confirmed and is_last:
            self.witnesses.leave_open(
                complaint,
                "it is of the last checkpoint that is trusted, which one host alone does not pass over: "
                f"run `braid checkpoints {self.run} --verify` on another machine, or resume on another node",
            )
        on_first_rank(self.witnesses.exchange, partial(self._record, commit, str(complaint.error), is_confirmed=is_confirmed))
        return "refused" if is_confirmed else "passed over, no other node could look at it"

    def _candidates(self) -> list[Commit]:
        commit_log = self.attempt.commit_log
        assert commit_log is not None, "only the first rank reads it"
        trusted = commit_log.trusted()
        if not trusted and any(isinstance(entry, Commit) for entry in commit_log.entries):
            raise NoCheckpoint(_none_left(self.run, "all were refused by earlier attempts"))
        return still_there(trusted, {info.key for info in self.store.list(CHECKPOINTS)})

    def _record(self, commit: Commit, reason: str, *, is_confirmed: bool) -> None:
        commit_log = self.attempt.commit_log
        assert commit_log is not None, "only the first rank writes it"
        (commit_log.reject if is_confirmed else commit_log.doubt)(commit, reason, attempt=self.attempt.number)

    def _load(self, commit: Commit, state: dict[str, Tensor]) -> None:
        manifest = self._read_manifest(commit)
        load_state(self.store, manifest, state, lambda metadata: check_fits(metadata, state, step=manifest.step))

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
                f"of step {manifest.step} was trained with; restore them, or start a new run under another name "
                "(with data.document_masking: or go on with the version of braid that began it, which learns other labels)"
            )
        if manifest.training.dataset_digest != self.dataset_digest:
            raise ConfigMismatch(
                f"run {manifest.run}: its dataset was rebuilt under the same name after the checkpoint of step {manifest.step}; "
                "restore the dataset's old manifest and shards, or start a new run under another name"
            )
        if (known := manifest.training.order_digest) and known != self.order_digest(manifest.step):
            raise ConfigMismatch(
                f"run {manifest.run}: this version of braid orders samples in another way than the one that wrote the checkpoint of "
                f"step {manifest.step}; go on with that version, or start a new run with start.run={manifest.run}"
            )
        return manifest


def load_start(store: ObjectStore, witnesses: Witnesses, config: RunConfig, state: dict[str, Tensor]) -> None:
    """Every rank's part in beginning from another run: loads into all of `state`. `store` is the storage root.

    Raises NoCheckpoint, ConfigMismatch, StoreError, HostCorrupts and PeerFailed as `Resumer.load_latest`.
    """
    its_store = start_store(store, config)
    try:
        manifest = on_first_rank(witnesses.exchange, lambda: hold_start(store, config))
    except CheckpointCorrupt as error:
        witnesses.confirm(its_store, Complaint(rank=0, error=error))
        raise unusable_start(f"start.run={config.start.run}", error) from error
    start = f"start.run={manifest.run}, step {manifest.step}"
    failure = try_on_every_rank(
        witnesses.exchange,
        lambda: load_state(its_store, manifest, state, lambda metadata: check_begins(metadata, state, start=start)),
    )
    if failure is not None:
        complaint = _complaint(failure, witnesses.exchange)
        witnesses.confirm(its_store, complaint)
        raise unusable_start(start, complaint.error) from complaint.error
    log.info("begins from step %d of run %s (%s), %d tensors", manifest.step, manifest.run, manifest.origin, len(state))


def load_state(run_store: ObjectStore, manifest: CheckpointManifest, state: dict[str, Tensor], check: Callable[[Metadata], None]) -> None:
    """This rank's part: into the tensors of `state`, sharded or not, once `check` found no fault. Raises CheckpointCorrupt, StoreError.

    Numbers that are not finite are a fault of the checkpoint too: nothing can be trained on from them.
    """
    reader = open_checkpoint(run_store, manifest)
    check(reader.metadata)
    load_into(state, reader)
    if name := not_finite_in(state):
        key = manifest_key(manifest.step, manifest.attempt)
        raise CheckpointCorrupt(f"{name} is not finite in the checkpoint of step {manifest.step}: training had diverged", key=key)


def _take(snapshots: Snapshots, snapshot: MemorySnapshot, state: dict[str, Tensor]) -> None:
    """Raises Diverged where it holds what is no number: no checkpoint would be made of it."""
    snapshots.load(snapshot, state)
    if name := not_finite_in(state):
        raise Diverged(f"{name} is not finite in it")


def _complaint(failure: Failure, exchange: Exchange) -> Complaint:
    """Raises the error where it is not about a file."""
    if not isinstance(failure.error, CheckpointCorrupt):
        raise_failure(exchange, failure)
    return Complaint(rank=failure.rank, error=failure.error)


def _none_left(run: str, why: str) -> str:
    remedy = f"restore its files from the bucket's versions or a backup and run `braid checkpoints {run} --trust STEP`, or start a new run"
    return f"no committed checkpoint of this run can be used ({why}); {remedy}"
