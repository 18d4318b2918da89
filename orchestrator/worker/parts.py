"""Which rank writes which part of a checkpoint, and where the parts went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan

from data_pipeline.store.protocol import ObjectStore
from orchestrator.records.keys import checkpoint_directory
from orchestrator.records.manifest import FileDigest
from orchestrator.worker.agreement import result_of
from orchestrator.worker.dcp import local_plan, metadata_of, put_metadata, with_places
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.snapshots import Snapshot
from orchestrator.worker.training_state import written_here


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one rank wrote of a checkpoint."""

    files: tuple[FileDigest, ...]


class PartWriter:
    """Every rank's end, for all checkpoints of an attempt, which hold the same tensors: they are planned once, at the first.

    From the second one on, ranks send the first one no more than the digests of their files.
    """

    def __init__(self, store: ObjectStore, state: Mapping[str, Tensor], *, attempt: int, exchange: Exchange, hands: Executor) -> None:
        """`state` is what all of them hold."""
        self._store = store
        self._attempt = attempt
        self._exchange = exchange
        self._hands = hands
        names = written_here(state, rank=exchange.rank, world_size=exchange.world_size)
        self._plan: SavePlan | None = local_plan(state, names, is_first=exchange.rank == 0)
        """What this rank writes; None once the first one knows."""
        self._metadata: Metadata | None = None
        """Of the whole checkpoint; on the first rank."""

    def write(self, snapshot: Snapshot, *, check: Callable[[], None] = lambda: None) -> list[Part | Exception] | None:
        """Writes this rank's part. On the first rank, once all have done so: what each wrote, or why it could not, by rank.

        `check` raises what speaks against writing it.
        """
        if self._plan is not None:
            plans = self._exchange.gather(with_places(self._plan, snapshot.image))
            self._metadata = metadata_of(plans) if plans is not None else None
            self._plan = None
        return self._exchange.gather(result_of(lambda: self._write(snapshot, check)))

    def finish(self, step: int, parts: Sequence[Part]) -> list[FileDigest]:
        """On the first rank, when every part is written: writes the metadata, and returns all files of the checkpoint."""
        assert self._metadata is not None, "the checkpoint was planned"
        return [*(file for part in parts for file in part.files), put_metadata(self._store, self._directory(step), self._metadata)]

    def _write(self, snapshot: Snapshot, check: Callable[[], None]) -> Part:
        check()
        image, directory = snapshot.image, self._directory(snapshot.held.step)
        files = [span for span in image.spans if span.name]
        list(self._hands.map(lambda span: self._store.put(directory + span.name, image.data(span)), files))
        return Part(files=image.files(snapshot.held))

    def _directory(self, step: int) -> str:
        return checkpoint_directory(step, self._attempt)
