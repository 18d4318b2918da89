"""How training's state is kept, in `bench.checkpoint`: by a run's own saver, or by torch's `async_save`."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from torch.distributed import new_group
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, async_save, load
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from bench.checkpoint_rank import Rank
from bench.stalls import Meanwhile, Taken
from data_pipeline.config import StorageConfig
from data_pipeline.order.phases import Phase
from data_pipeline.order.plan import Order, Source, build_plan
from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import ObjectStore
from model.parallel.config import ParallelConfig
from model.presets import PRESETS
from model.train.metrics import StepMetrics
from orchestrator.config import CheckpointConfig
from orchestrator.messages import CheckpointLost
from orchestrator.records.keys import CHECKPOINTS
from orchestrator.records.ledger import StepRecord
from orchestrator.records.manifest import find_checkpoint
from orchestrator.worker.checkpoint import CheckpointTerms, Committer, build_checkpointer
from orchestrator.worker.dcp import check_fits
from orchestrator.worker.fenced import FencedAttempt, begin_attempt
from orchestrator.worker.pace import Pace
from orchestrator.worker.reporter import build_reporter
from orchestrator.worker.resume import load_state
from orchestrator.worker.saver import Saver
from orchestrator.worker.snapshots import Snapshots

NEVER = 10**9
"""Steps between the checkpoints that nobody asks for."""


class Keeper(Protocol):
    """One rank's end. Every rank calls the same, but for `make_room` and `rates`, which the first one alone does."""

    def votes(self) -> list[float]:
        """Before a step; what they sum up to is known after it."""

    def meanwhile(self, votes: Sequence[float]) -> Meanwhile:
        """What the sums say of the step."""

    def after(self, step: int, metrics: StepMetrics, asked: Taken, votes: Sequence[float]) -> Taken:
        """Takes what is asked for, and returns what it took, when training may go on."""

    def make_room(self) -> None:
        """Removes what was saved before: of large states not two fit on a disk."""

    def finish(self) -> None:
        """Returns when the last checkpoint is written."""

    def read(self) -> float:
        """Seconds that it takes to load it."""

    def rates(self) -> dict[str, float]:
        """Bytes of the last checkpoint, and a second from the moment when its state is taken until it counts, of the fastest."""


class Ours:
    """Snapshots and checkpoints by a run's own saver, asked for by hand."""

    def __init__(self, rank: Rank, store: ObjectStore, saver: Saver, attempt: FencedAttempt, committed_at_s: list[float]) -> None:
        self._rank, self._store, self._saver, self._attempt = rank, store, saver, attempt
        self._committed_at_s = committed_at_s
        self._begun_at_s: list[float] = []
        self._has_taken = False

    def votes(self) -> list[float]:
        _, is_busy, is_saving = self._saver.votes(1, step_s=1.0)
        return [is_busy, is_saving]

    def meanwhile(self, votes: Sequence[float]) -> Meanwhile:
        num_busy, num_saving = votes
        if num_saving:
            return "uploading"
        return "" if not num_busy else "sealing" if self._has_taken else "readying"

    def after(self, step: int, metrics: StepMetrics, asked: Taken, votes: Sequence[float]) -> Taken:
        self._record(step, metrics)
        self._saver.is_due, begun_at_s = asked == "checkpoint", time.monotonic()
        is_saved = self._saver.after(step, (float(asked == "snapshot"), *votes), is_end=False, is_finite=True)
        if is_saved:
            self._begun_at_s.append(begun_at_s)
        self._has_taken |= asked != ""
        return "" if asked == "checkpoint" and not is_saved else asked

    def _record(self, step: int, metrics: StepMetrics) -> None:
        if self._attempt.ledger is None:
            return
        record = StepRecord(
            step=step,
            attempt=self._attempt.number,
            samples="",
            layout=ParallelConfig(dp_shard=self._rank.world_size),
            deterministic=False,
            setting="",
            **asdict(metrics),
        )
        self._attempt.ledger.append(record)

    def make_room(self) -> None:
        for info in self._store.list(CHECKPOINTS):
            self._store.delete(info.key)

    def read(self) -> float:
        manifest = find_checkpoint(self._store, -1, who="bench")
        self._rank.together()
        started_s = time.monotonic()
        load_state(self._store, manifest, self._rank.state, lambda metadata: check_fits(metadata, self._rank.state, step=manifest.step))
        self._rank.together()
        return time.monotonic() - started_s

    def rates(self) -> dict[str, float]:
        size_bytes = sum(info.size_bytes for info in self._store.list(CHECKPOINTS))
        written_s = min(end - begin for begin, end in zip(self._begun_at_s, self._committed_at_s, strict=True))
        return {"write_bytes_per_s": size_bytes / written_s, "bytes": size_bytes}

    def finish(self) -> None:
        self._saver.checkpointer.wait()
        if self._attempt.ledger is not None:
            self._attempt.ledger.close()


def build_ours(rank: Rank, snapshots: Snapshots, storage: StorageConfig, place: str) -> Ours:
    """A run of its own at each place, and an attempt in it."""
    store, committed_at_s = open_store(storage), list[float]()
    attempt = begin_attempt(store, rank.exchange(f"{place}-begin"), None)
    committer = None
    if attempt.commit_log is not None and attempt.ledger is not None:
        source = Source(name="bench", shard_tokens=[2**20])
        terms = CheckpointTerms(
            run="bench",
            attempt=attempt.number,
            model=PRESETS["tiny"],
            layout=ParallelConfig(dp_shard=rank.world_size),
            training_digest="",
            dataset_digest="",
            plan=build_plan(order=Order(seed=1, lanes=4), sources=[source], phases=[Phase(steps=1, batch_rows=4, seq_len=1, ratios=(1,))]),
            keep_latest=2,
        )
        committer = Committer(
            store,
            terms=terms,
            commit_log=attempt.commit_log,
            ledger=attempt.ledger,
            on_commit=lambda step: committed_at_s.append(time.monotonic()),
            on_loss=_say_lost,
            tidy=lambda: None,
        )
    checkpointer = build_checkpointer(
        store, rank.state, attempt=attempt.number, exchange=rank.exchange(f"{place}-save"), committer=committer, snapshots=snapshots
    )
    saver = Saver(
        config=CheckpointConfig(every_steps=NEVER),
        state=rank.state,
        snapshots=snapshots,
        checkpointer=checkpointer,
        pace=Pace(every_s=math.inf, last_s=0.0),
        exchange=rank.exchange(f"{place}-main"),
        reporter=build_reporter(None),
        ledger=None,
    )
    return Ours(rank, store, saver, attempt, committed_at_s)


def _say_lost(lost: CheckpointLost) -> None:
    print(f"the checkpoint of step {lost.step} is lost: {lost.text}", file=sys.stderr, flush=True)


class Torchs:
    """Checkpoints by torch's own `async_save`; on a GPU into pinned memory, beside the next step, which is the best that it has."""

    def __init__(self, rank: Rank, directory: Path, num_threads: int) -> None:
        self._rank, self._directory, self._num_threads = rank, directory, num_threads
        self._upload: Any = None
        self._staged: Any = None
        self._written_s: list[float] = []
        self._stager: DefaultStager | None = None
        self._group = new_group(backend="gloo")
        """Of its own: it speaks from a thread."""
        if rank.device.type == "cuda":
            options = StagingOptions(use_pinned_memory=True, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=True)
            self._stager = DefaultStager(options)
        rank.before_update(self._wait_until_staged)

    def votes(self) -> list[float]:
        is_saving = self._upload is not None and not self._upload.done()
        return [float(is_saving)]

    def meanwhile(self, votes: Sequence[float]) -> Meanwhile:
        if votes[0]:
            return "uploading"
        if self._upload is not None:
            self._upload.result()
        return ""

    def after(self, step: int, metrics: StepMetrics, asked: Taken, votes: Sequence[float]) -> Taken:
        if asked != "checkpoint":
            return ""
        begun_at_s = time.monotonic()
        writer = FileSystemWriter(self._directory, thread_count=self._num_threads)
        answer = async_save(dict(self._rank.state), storage_writer=writer, process_group=self._group, async_stager=self._stager)
        self._upload = getattr(answer, "upload_completion", answer)
        self._staged = getattr(answer, "staging_completion", None)
        self._upload.add_done_callback(lambda _: self._written_s.append(time.monotonic() - begun_at_s))
        return "checkpoint"

    def _wait_until_staged(self) -> None:
        if self._staged is not None:
            self._staged.result()
            self._staged = None

    def make_room(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def finish(self) -> None:
        self._upload.result()

    def read(self) -> float:
        self._rank.together()
        started_s = time.monotonic()
        load(dict(self._rank.state), storage_reader=FileSystemReader(self._directory), process_group=self._group)
        self._rank.together()
        return time.monotonic() - started_s

    def rates(self) -> dict[str, float]:
        size_bytes = sum(path.stat().st_size for path in self._directory.iterdir())
        return {"write_bytes_per_s": size_bytes / min(self._written_s), "bytes": size_bytes}
