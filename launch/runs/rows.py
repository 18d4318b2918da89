"""What a run read at a step, or would read: its plan and its dataset say so, without a cluster."""

from dataclasses import dataclass

from data_pipeline.dataset.mixture import load_manifests
from data_pipeline.dataset.shards import ShardStore
from data_pipeline.order.samples import rows_of_rank
from data_pipeline.read.packed_table import open_table
from data_pipeline.read.rows import Row, read_rows
from data_pipeline.store.open import open_beside
from launch.errors import UserError
from launch.runs.record import RunRecord, last_record


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRows:
    """The rows of a step, or those of one rank."""

    step: int
    was_trained: bool
    """Else it is what would be read."""
    first_row: int
    """Of the global batch, the first of these."""
    rows: tuple[Row, ...]


def rows_of_step(record: RunRecord, step: int, rank: int | None) -> StepRows:
    """By the run's present layout, all rows where `rank` is None. Raises UserError, DataError, StoreError."""
    from data_pipeline.dataset.packing import load_packings  # costs numpy
    from data_pipeline.dataset.plan import plan_of, planned_samples

    config, manifests = record.config, load_manifests(record.store, record.config.data)
    stage = config.stage_at(step)
    wanted = _rows_of(record, rank, stage.batch_rows)
    packings = load_packings(record.store, manifests, config.data)
    plan = plan_of(manifests, config.data, batch_rows=config.train.batch_rows, packings=packings)
    if plan.exhausted_at is not None and step >= plan.exhausted_at:
        raise UserError(f"--step {step}: from step {plan.exhausted_at} on there is nothing left to read; use a lower one")
    shards = ShardStore(record.store, open_beside(record.storage))
    tables = [open_table(one, packings, record.store, samples=plan.table(source, stage.seq_len)) for source, one in enumerate(manifests)]
    rows = read_rows(planned_samples(plan, step, wanted), manifests=manifests, tables=tables, shards=shards)
    newest = last_record(record)
    done = max(record.state.committed_step, newest.step if newest else 0)
    return StepRows(step=step, was_trained=step <= done, first_row=wanted.start, rows=tuple(rows))


def _rows_of(record: RunRecord, rank: int | None, batch_rows: int) -> range:
    parallel = record.config.parallel
    if rank is None:
        return range(batch_rows)
    if rank >= parallel.world_size:
        raise UserError(f"--rank {rank}: run {record.name} has {parallel.world_size} workers; use 0 … {parallel.world_size - 1}")
    return rows_of_rank(rank // (parallel.cp * parallel.tp), num_ranks=parallel.dp, batch_rows=batch_rows)
