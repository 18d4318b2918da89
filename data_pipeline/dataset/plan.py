"""The order in which a run reads its dataset: what its configuration and the manifest make of it. Pure."""

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table
from data_pipeline.order.phases import Phase
from data_pipeline.order.plan import Order, Plan, Source, build_plan
from data_pipeline.order.samples import SampleRef, digest_of, digest_of_sums, first_position, is_sum, sample_sums


def plan_of(manifest: DatasetManifest, config: DataConfig, *, batch_rows: int) -> Plan:
    """Raises DatasetTooSmall where not one sample fits."""
    build_sample_table(manifest, config.seq_len)
    return build_plan(
        order=Order(seed=config.seed, shuffle=config.shuffle, window=config.shuffle_window, lanes=batch_rows),
        sources=[Source(name=manifest.name, shard_tokens=[shard.num_tokens for shard in manifest.shards])],
        phases=[Phase(steps=1, batch_rows=batch_rows, seq_len=config.seq_len, ratios=(1,))],  # the last phase has no end
    )


def planned_samples(plan: Plan, step: int, rows: range) -> tuple[SampleRef, ...]:
    """The samples of some rows of the global batch of `step` (the first is 1)."""
    found = plan.rows(step, rows)
    return tuple(map(SampleRef, found.epochs.tolist(), found.indices.tolist()))


def planned_digest(plan: Plan, step: int, *, like: str, batch_rows: int) -> str:
    """The digest of the samples of `step`, in the form of the digest `like`: that of `digest_of_sums` or of `digest_of`."""
    samples = planned_samples(plan, step, range(batch_rows))
    if is_sum(like):
        return digest_of_sums(sample_sums(enumerate(samples, first_position(step, batch_rows=batch_rows))))
    return digest_of(samples)
