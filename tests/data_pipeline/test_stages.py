"""What each step of a run consists of."""

import pytest

from data_pipeline.config import DataConfig, PhaseConfig, SourceConfig
from data_pipeline.stages import stage_at, stages_of, tokens_until, whole_ratios

WEB, CODE = SourceConfig(dataset="web", ratio=0.8), SourceConfig(dataset="code", ratio=0.2, max_epochs=2)


def test_without_phases_every_step_is_the_same():
    (stage,) = stages_of(DataConfig(seq_len=8), batch_rows=4, micro_rows=2)
    assert (stage.first_step, stage.steps, stage.batch_rows, stage.micro_rows, stage.seq_len, stage.ratios) == (1, None, 4, 2, 8, (1,))


def test_phases_take_what_they_leave_out_from_the_recipe_and_tokens_count_up_to_a_whole_step():
    phases = (
        PhaseConfig(steps=10, batch_rows=2),
        PhaseConfig(tokens=1000, ratios={"code": 3.0}),
        PhaseConfig(seq_len=16, micro_rows=1),
    )
    stages = stages_of(DataConfig(seq_len=8, sources=(WEB, CODE), phases=phases), batch_rows=4, micro_rows=2)
    assert [(stage.first_step, stage.steps) for stage in stages] == [(1, 10), (11, 32), (43, None)]
    assert [(stage.batch_rows, stage.micro_rows, stage.seq_len) for stage in stages] == [(2, 2, 8), (4, 2, 8), (4, 1, 16)]
    assert [stage.ratios for stage in stages] == [(4, 1), (0, 3), (4, 1)]
    assert [stage_at(stages, step) for step in (1, 10, 11, 42, 43, 10**9)] == [stages[n] for n in (0, 0, 1, 1, 2, 2)]
    by_hand = [sum(stage_at(stages, step).tokens_per_step for step in range(1, last + 1)) for last in range(60)]
    assert [tokens_until(stages, last) for last in range(60)] == by_hand


def test_ratios_are_exact_as_they_are_written():
    assert whole_ratios({"a": 0.1, "b": 0.2, "c": 0.7}, ["a", "b", "c"]) == (1, 2, 7)
    assert whole_ratios({"a": 1e-6, "b": 1.0}, ["a", "b"]) == (1, 10**6)
    assert whole_ratios({"b": 5.0}, ["a", "b"]) == (0, 5)


WRONG = {
    "data.dataset=mine: data.sources names datasets too": {"dataset": "mine", "sources": (WEB,)},
    "data.sources: web is there twice": {"sources": (WEB, WEB)},
    "data.sources: all ratios are 0": {"sources": (SourceConfig(dataset="web", ratio=0),)},
    "data.phases: phase 1 is the last and ends at train.num_steps": {"phases": (PhaseConfig(steps=3),)},
    "data.phases: phase 1 needs either steps or tokens": {"phases": (PhaseConfig(), PhaseConfig())},
    "data.phases: phase 2: ratios.books: is not in data.sources, which has web": {
        "sources": (WEB,),
        "phases": (PhaseConfig(steps=3), PhaseConfig(ratios={"books": 1})),
    },
}


@pytest.mark.parametrize("said", WRONG)
def test_a_mixture_that_cant_be_meant_is_one_line(said: str):
    with pytest.raises(ValueError, match=said):
        DataConfig(seq_len=8, **WRONG[said])


def test_numbers_that_no_phase_or_source_can_have_are_one_line():
    with pytest.raises(ValueError, match="ratio=-1"):
        SourceConfig(dataset="web", ratio=-1)
    with pytest.raises(ValueError, match="max_epochs=0"):
        SourceConfig(dataset="web", max_epochs=0)
    with pytest.raises(ValueError, match="batch_rows=0"):
        PhaseConfig(batch_rows=0)
    with pytest.raises(ValueError, match="ratios are all 0"):
        PhaseConfig(ratios={"web": 0})
