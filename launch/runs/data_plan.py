"""What a run will read: of each dataset in each phase, what of it again, and what runs out when. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from data_pipeline.dataset.mixture import left_unread
from data_pipeline.order.plan import Consumed, Plan
from orchestrator.config import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceInPhase:
    """What a phase reads of a dataset."""

    dataset: str
    tokens: int
    share: float
    """Of the phase's tokens."""
    epochs: float
    """Of the dataset, in samples of the phase's length."""
    repeated: int
    """Samples of epochs after the first. One that is broken off for rows of another length, or for another mixture, was not read whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseReading:
    first_step: int
    last_step: int
    batch_rows: int
    seq_len: int
    tokens: int
    sources: tuple[SourceInPhase, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReading:
    """What `braid data plan` tells."""

    num_steps: int
    """Those that there is data for."""
    tokens: int
    phases: tuple[PhaseReading, ...]
    events: tuple[str, ...]
    """What begins again or runs out, in the order of the steps."""


def reading_of(config: RunConfig, plan: Plan) -> DataReading:
    """What the steps of a run read, as far as the datasets last."""
    last_step = min(config.train.num_steps, (plan.exhausted_at or config.train.num_steps + 1) - 1)
    stages = [stage for stage in config.stages if stage.first_step <= last_step]
    ends = [*(stage.first_step - 1 for stage in stages[1:]), last_step]
    phases = []
    for stage, end in zip(stages, ends, strict=True):
        before, after = plan.consumed(stage.first_step - 1), plan.consumed(end)
        sizes = [plan.table(source, stage.seq_len).num_samples for source in range(len(plan.sources))]
        phases.append(
            PhaseReading(
                first_step=stage.first_step,
                last_step=end,
                batch_rows=stage.batch_rows,
                seq_len=stage.seq_len,
                tokens=(end - stage.first_step + 1) * stage.tokens_per_step,
                sources=_sources(config.data.datasets, before, after, sizes),
            )
        )
    tokens = config.tokens_until(last_step)
    return DataReading(num_steps=last_step, tokens=tokens, phases=tuple(phases), events=_events(config, plan, last_step))


def as_json(reading: DataReading) -> dict[str, object]:
    return asdict(reading)


def _sources(
    names: Sequence[str], before: Sequence[Consumed], after: Sequence[Consumed], sizes: Sequence[int]
) -> tuple[SourceInPhase, ...]:
    whole = sum(one.tokens for one in after) - sum(one.tokens for one in before)
    return tuple(
        SourceInPhase(
            dataset=name,
            tokens=new.tokens - old.tokens,
            share=(new.tokens - old.tokens) / whole,
            epochs=(new.samples - old.samples) / size,
            repeated=new.repeated - old.repeated,
        )
        for name, old, new, size in zip(names, before, after, sizes, strict=True)
        if new.samples > old.samples
    )


def _events(config: RunConfig, plan: Plan, last_step: int) -> tuple[str, ...]:
    found = left_unread(plan, config.train.num_steps)
    for number, source in enumerate(plan.sources):
        read, capped_at = plan.consumed(last_step)[number], plan.capped_at(number)
        if read.epochs > 1:
            step = _first_step(plan, number, last_step)
            found.append((step, f"{source.name}: begins its second epoch at step {step:,}; {read.epochs} are begun in all"))
        if capped_at is not None and capped_at <= last_step:
            told = f"max_epochs={source.max_epochs} is reached at step {capped_at:,}; others take its part"
            if not read.samples:
                told = f"nothing of it is read: max_epochs={source.max_epochs} gives fewer rows than the largest batch has"
            found.append((capped_at, f"{source.name}: {told}"))
    if plan.exhausted_at is not None and plan.exhausted_at <= config.train.num_steps:
        told = f"nothing is left to read at step {plan.exhausted_at:,}: every source has reached its max_epochs"
        found.append((plan.exhausted_at, told))
    return tuple(text for _, text in sorted(found))


def _first_step(plan: Plan, source: int, last_step: int) -> int:
    """The first step that reads of a source's second epoch."""

    def has_begun(step: int) -> bool:
        return plan.consumed(step)[source].epochs > 1

    return bisect_left(range(1, last_step + 1), True, key=has_begun) + 1
