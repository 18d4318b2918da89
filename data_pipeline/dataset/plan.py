"""The order in which a run reads its datasets: what its configuration and their manifests make of it. Pure, but for loading."""

from collections.abc import Sequence

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, build_sample_table
from data_pipeline.dataset.packing import NO_PACKINGS, Packings, load_packings, packed_rows
from data_pipeline.errors import OrderImpossible
from data_pipeline.order.phases import Phase
from data_pipeline.order.plan import Order, Plan, Source, build_plan
from data_pipeline.order.samples import SampleRef, digest_of, digest_of_sums, is_sum, sample_sums
from data_pipeline.stages import Stage, stages_of
from data_pipeline.store.protocol import ObjectStore


def plan_of(manifests: Sequence[DatasetManifest], config: DataConfig, *, batch_rows: int, packings: Packings = NO_PACKINGS) -> Plan:
    """The plan of a run with the datasets of `config.datasets`, in this order; `batch_rows` is that of `train`, `packings` are those that
    `load_packings` finds for the same configuration.

    Raises DatasetTooSmall where not one sample of a dataset fits, OrderImpossible.
    """
    stages = stages_of(config, batch_rows=batch_rows)
    for manifest in manifests:
        for seq_len, setting in _settings(config, stages).items():
            if config.packing == "concat":
                build_sample_table(manifest, seq_len, setting=setting)
            else:
                assert (manifest.name, seq_len) in packings, "load_packings finds or raises"
    caps = [source.max_epochs for source in config.sources] or [None]
    try:
        return build_plan(
            order=_order(config, stages),
            sources=[
                Source(
                    name=manifest.name,
                    shard_tokens=[shard.num_tokens for shard in manifest.shards],
                    max_epochs=cap,
                    packed=packed_rows(packings, manifest.name),
                )
                for manifest, cap in zip(manifests, caps, strict=True)
            ],
            phases=[_phase(stage) for stage in stages],
        )
    except ValueError as error:
        raise OrderImpossible(f"data: {error}") from error


def load_plan(store: ObjectStore, manifests: Sequence[DatasetManifest], config: DataConfig, *, batch_rows: int) -> Plan:
    """`plan_of`, with what is packed for it. Raises PackingMissing and StoreError, too."""
    return plan_of(manifests, config, batch_rows=batch_rows, packings=load_packings(store, manifests, config))


def planned_samples(plan: Plan, step: int, rows: range | None = None) -> tuple[SampleRef, ...]:
    """The samples of some rows of the global batch of `step` (the first is 1), or of all. Raises order.plan.Exhausted."""
    found = plan.rows(step, range(plan.phase_at(step).batch_rows) if rows is None else rows)
    return tuple(map(SampleRef, found.epochs.tolist(), found.indices.tolist(), found.sources.tolist()))


def planned_digest(plan: Plan, step: int, *, like: str) -> str:
    """The digest of the samples of `step`, in the form of the digest `like`: that of `digest_of_sums` or of `digest_of`."""
    samples = planned_samples(plan, step)
    if is_sum(like):
        return digest_of_sums(sample_sums(enumerate(samples, plan.position(step))))
    return digest_of(samples)


def _settings(config: DataConfig, stages: Sequence[Stage]) -> dict[int, str]:
    """Which key of the recipe wants rows of each length, the first that does."""
    found: dict[int, str] = {}
    for number, stage in enumerate(stages):
        is_its_own = config.phases and config.phases[number].seq_len is not None
        found.setdefault(stage.seq_len, f"data.phases: phase {number + 1}: seq_len" if is_its_own else "data.seq_len")
    return found


def _order(config: DataConfig, stages: Sequence[Stage]) -> Order:
    lanes = max(stage.batch_rows for stage in stages)
    return Order(seed=config.seed, shuffle=config.shuffle, window=config.shuffle_window, lanes=lanes)


def _phase(stage: Stage) -> Phase:
    return Phase(steps=stage.steps or 1, batch_rows=stage.batch_rows, seq_len=stage.seq_len, ratios=stage.ratios)  # the last has no end
