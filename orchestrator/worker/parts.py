"""Which rank writes which part of a checkpoint, planned together, and where the parts went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult

from orchestrator.records.manifest import FileDigest
from orchestrator.worker.agreement import result_of
from orchestrator.worker.dcp import StoreWriter, plan_globally
from orchestrator.worker.exchange import Exchange


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one rank wrote of a checkpoint."""

    files: tuple[FileDigest, ...]
    places: list[WriteResult] | None
    """Where in which file each piece of a tensor lies; None where all lie as they did in the checkpoint before."""


class PartWriter:
    """Every rank's end, for all checkpoints of an attempt, which hold the same tensors: they are planned once, at the first.

    From the second one on, ranks send the first one no more than the digests of their files.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._local: SavePlan | None = None
        """What this rank has."""
        self._own: SavePlan | None = None
        """What of that this rank writes: of copies only one is written."""
        self._sent: list[WriteResult] | None = None
        """The places that this rank told last."""
        self._metadata: Metadata | None = None
        """Of the whole checkpoint; on the first rank."""
        self._places: dict[int, list[WriteResult]] = {}
        """What each rank told last; on the first rank."""

    def write(
        self, writer: StoreWriter, snapshot: Mapping[str, Tensor], *, check: Callable[[], None] = lambda: None
    ) -> list[Part | Exception] | None:
        """Writes this rank's part. On the first rank, once all have done so: what each wrote, or why it could not, by rank.

        `check` raises what speaks against writing it.
        """
        planner = DefaultSavePlanner()
        planner.set_up_planner(dict(snapshot), writer.storage_meta(), self._exchange.rank == 0)
        plan = planner.finish_plan(self._plan(planner, writer))
        parts = self._exchange.gather(result_of(lambda: self._write(writer, planner, plan, check)))
        for rank, part in enumerate(parts or []):
            if isinstance(part, Part) and part.places is not None:
                self._places[rank] = part.places
        return parts

    def finish(self, writer: StoreWriter, parts: Sequence[Part]) -> list[FileDigest]:
        """On the first rank, when every part is written: writes the metadata, and returns all files of the checkpoint."""
        assert self._metadata is not None, "the checkpoint was planned"
        writer.finish(self._metadata, [self._places[rank] for rank in range(len(parts))])
        return [*(file for part in parts for file in part.files), writer.digests[-1]]

    def _plan(self, planner: SavePlanner, writer: StoreWriter) -> SavePlan:
        local = writer.prepare_local_plan(planner.create_local_plan())
        if self._own is None:
            plans, everyones = None, self._exchange.gather(local)
            if everyones is not None:
                plans, self._metadata = plan_globally(planner, writer, everyones)
            self._local, self._own = local, self._exchange.scatter(plans)
        elif local != self._local:
            raise ValueError("this rank's tensors are others than in the attempt's first checkpoint, by which all of them are planned")
        return self._own

    def _write(self, writer: StoreWriter, planner: SavePlanner, plan: SavePlan, check: Callable[[], None]) -> Part:
        check()
        places = writer.write_data(plan, planner).wait()
        is_known = places == self._sent
        self._sent = places
        return Part(files=tuple(writer.digests), places=None if is_known else places)
