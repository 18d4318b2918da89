"""What each step of a run consists of: the phases of its recipe, each with what it inherits. Pure."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from data_pipeline.config import DataConfig, PhaseConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Consecutive steps of one shape and mixture."""

    first_step: int
    """The first step of a run is 1."""
    steps: int | None
    """None for the last stage: it goes on to the run's end."""
    batch_rows: int
    micro_rows: int
    seq_len: int
    ratios: tuple[int, ...]
    """For each dataset of `DataConfig.datasets`, its part of the rows."""

    @property
    def tokens_per_step(self) -> int:
        return self.batch_rows * self.seq_len


def stages_of(data: DataConfig, *, batch_rows: int, micro_rows: int = 1) -> tuple[Stage, ...]:
    """The stages of a run; one where there are no phases. `batch_rows` and `micro_rows` are those of `train`."""
    first_step, stages = 1, []
    usual = {source.dataset: source.ratio for source in data.sources} or {data.dataset: 1.0}
    for phase in data.phases or (PhaseConfig(),):
        rows, seq_len = phase.batch_rows or batch_rows, phase.seq_len or data.seq_len
        stage = Stage(
            first_step=first_step,
            steps=_steps_of(phase, rows * seq_len),
            batch_rows=rows,
            micro_rows=phase.micro_rows or micro_rows,
            seq_len=seq_len,
            ratios=whole_ratios(phase.ratios or usual, data.datasets),
        )
        stages.append(stage)
        first_step += stage.steps or 0
    return tuple(stages)


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage that a step lies in."""
    return stages[bisect_right([stage.first_step for stage in stages], step) - 1]


def tokens_until(stages: Sequence[Stage], step: int) -> int:
    """Input tokens of the steps up to `step`; 0: none."""
    ends = [*(stage.first_step - 1 for stage in stages[1:]), step]
    return sum(max(0, min(end, step) - stage.first_step + 1) * stage.tokens_per_step for stage, end in zip(stages, ends, strict=True))


def whole_ratios(ratios: Mapping[str, float], datasets: Sequence[str]) -> tuple[int, ...]:
    """Whole numbers in the same proportion as the decimal ones, exactly; 0 for a dataset that has none."""
    fractions = [Fraction(repr(ratios.get(dataset, 0.0))) for dataset in datasets]
    unit = math.lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * unit) for fraction in fractions)


def _steps_of(phase: PhaseConfig, tokens_per_step: int) -> int | None:
    """Tokens count up to a whole step."""
    return phase.steps or (-(-phase.tokens // tokens_per_step) if phase.tokens else None)
