"""The datasets of a run together: whether they go with each other, with the model, and as long as the run. Pure, but for loading."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_pipeline.config import DataConfig
from data_pipeline.dataset.manifest import DatasetManifest, load_manifest
from data_pipeline.store.protocol import ObjectStore

if TYPE_CHECKING:  # a plan costs numpy, which who only looks for datasets can do without
    from data_pipeline.order.plan import Plan


def load_manifests(store: ObjectStore, config: DataConfig) -> tuple[DatasetManifest, ...]:
    """In the order of `config.datasets`. Raises DatasetMissing, ManifestInvalid, or what the store raises."""
    setting = "data.sources" if config.sources else "data.dataset"
    return tuple(load_manifest(store, name, setting=setting) for name in config.datasets)


def problem_with(manifests: Sequence[DatasetManifest], *, vocab_size: int) -> str:
    """Why these datasets can't be trained on by a model of this vocabulary; "" where they can."""
    first = manifests[0]
    for manifest in manifests:
        if manifest.vocab_size > vocab_size:
            return (
                f"model.vocab_size={vocab_size}: dataset {manifest.name} has {manifest.vocab_size} tokens; "
                f"use at least {manifest.vocab_size}, or another data.dataset"
            )
        if manifest.eos_id != first.eos_id:
            return (
                f"data.sources: documents of {manifest.name} end with token {manifest.eos_id}, those of {first.name} with {first.eos_id}; "
                "build both with the same tokenizer"
            )
    return ""


def exhaustion(plan: "Plan", num_steps: int) -> str:
    """Why the datasets do not last for so many steps; "" where they do."""
    if plan.exhausted_at is None or plan.exhausted_at > num_steps:
        return ""
    told = (
        f"train.num_steps={num_steps}: at step {plan.exhausted_at} every source of data.sources has reached its max_epochs; "
        f"use {plan.exhausted_at - 1} or less, add data, or raise max_epochs"
    )
    return "; ".join([told, *(line for _, line in left_unread(plan, num_steps)[:1])])


def never_read(plan: "Plan", num_steps: int) -> str:
    """Which source has a part in the mixture and fills not one batch within its cap; "" where there is none.

    It would be left out without a word of the recipe, which is refused rather than told in passing: whoever names a dataset wants it read.
    """
    for number, (source, read) in enumerate(zip(plan.sources, plan.consumed(num_steps), strict=True)):
        capped_at = plan.capped_at(number)
        if capped_at is not None and capped_at <= num_steps and not read.samples:
            return (
                f"data.sources: {source.name}: max_epochs={source.max_epochs} of it fill not one batch of {plan.order.lanes} rows, "
                "the largest, so nothing of it would be read; raise max_epochs, add data, or leave it out"
            )
    return ""


def left_unread(plan: "Plan", num_steps: int) -> list[tuple[int, str]]:
    """(step, what a change of seq_len there leaves unread of a source and what helps), where it is of an epoch that is broken off or of a
    source with a cap."""
    from data_pipeline.order.broken_off import broken_off

    found = []
    for one in broken_off(plan, num_steps):
        source = plan.sources[one.source]
        then = f"goes on in its epoch {one.next_epoch}" if one.next_epoch else "goes on at its next window of blocks"
        if one.is_over:
            then = f"has nothing left within max_epochs={source.max_epochs}"
        if one.next_epoch or source.max_epochs is not None:
            lost = f"{one.tokens:,} tokens of it are {'never read' if source.max_epochs == 1 else 'left unread'}"
            told = f"{source.name}: at step {one.step:,} seq_len changes, and it {then}: {lost}; {_remedy(plan, one.source)}"
            found.append((one.step, told))
    return found


def _remedy(plan: "Plan", source: int) -> str:
    """For a source that a change of seq_len costs tokens."""
    ways = []
    if plan.order.shuffle == "full" and not plan.sources[source].packed:
        ways.append("data.shuffle=blocks, which goes on at the next window of blocks")
    elif not plan.sources[source].packed:
        ways.append("a smaller data.shuffle_window or batch_rows")
    if plan.sources[source].max_epochs is not None:
        ways.append("a larger max_epochs")
    return f"use {''.join(f'{way}, ' for way in ways)}{'or ' if ways else ''}the same seq_len"
