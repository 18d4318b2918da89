"""What a run read at a step, or would read: its plan and its dataset say so, without a cluster."""

from dataclasses import dataclass

from data_pipeline.dataset.manifest import build_sample_table, load_manifest
from data_pipeline.order.samples import rows_of_rank
from data_pipeline.read.rows import Row, read_rows
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
    from data_pipeline.dataset.plan import plan_of, planned_samples  # costs numpy

    config = record.config
    wanted = _rows_of(record, rank)
    manifest = load_manifest(record.store, config.data.dataset)
    plan = plan_of(manifest, config.data, batch_rows=config.train.batch_rows)
    rows = read_rows(
        planned_samples(plan, step, wanted),
        manifest=manifest,
        table=build_sample_table(manifest, config.data.seq_len),
        store=record.store,
    )
    newest = last_record(record)
    done = max(record.state.committed_step, newest.step if newest else 0)
    return StepRows(step=step, was_trained=step <= done, first_row=wanted.start, rows=tuple(rows))


def _rows_of(record: RunRecord, rank: int | None) -> range:
    parallel, batch_rows = record.config.parallel, record.config.train.batch_rows
    if rank is None:
        return range(batch_rows)
    if rank >= parallel.world_size:
        raise UserError(f"--rank {rank}: run {record.name} has {parallel.world_size} workers; use 0 … {parallel.world_size - 1}")
    return rows_of_rank(rank // (parallel.cp * parallel.tp), num_ranks=parallel.dp, batch_rows=batch_rows)
