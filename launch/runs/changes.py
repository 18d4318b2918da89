"""What a resume may change: settings that leave a run the same run, and an end that is decided but not reached."""

from collections.abc import Sequence
from dataclasses import fields

from launch.errors import ConfigError, WrongMoment
from launch.runs.record import RunRecord
from orchestrator.config import RunConfig, training_digest
from orchestrator.control.state import Ending, RunState, Stage


def changed(record: RunRecord, overrides: Sequence[str]) -> RunConfig:
    """The run's configuration with overrides that leave its numbers alone. Raises WrongMoment, ConfigError."""
    from launch.config.load import change_config  # OmegaConf, which commands that only look can do without

    before = record.config
    after = change_config(before, overrides) if overrides else before
    name = record.name
    if after.eval.dataset != before.eval.dataset and (problem := after.eval.problem_with_training_on(after)):
        raise ConfigError(problem)
    if training_digest(after) != training_digest(before):
        raise ConfigError(
            f"{_decisive_key(before, after)}: decides the numbers of run {name} and can't change any more; submit a new run with name=…"
        )
    if after.storage.root != before.storage.root or after.name != name:
        key = "name" if after.name != name else "storage.root"
        raise ConfigError(f"{key}: run {name} stays where it is; submit a new run, or leave {key} alone")
    if record.state.ending is Ending.FINISHED and after.train.num_steps <= record.state.committed_step:
        raise WrongMoment(f"run {name}: finished all of its {before.train.num_steps} steps; go on with train.num_steps=MORE")
    if after.train.num_steps != before.train.num_steps and after.train.num_steps <= record.state.committed_step:
        raise ConfigError(f"train.num_steps={after.train.num_steps}: the run is at step {record.state.committed_step} already; use more")
    return after


def can_be_withdrawn(state: RunState) -> bool:
    """A person asked for the run's end, which is not reached; a run that has finished its steps meanwhile has nothing to go on with."""
    return state.stop_wanted and state.stage is not Stage.ENDED and state.ending is not Ending.FINISHED


def _decisive_key(before: RunConfig, after: RunConfig) -> str:
    """The first dotted key that differs among those that training_digest covers."""
    for section in ("model", "data", "optimizer", "start", "train"):
        old, new = getattr(before, section), getattr(after, section)
        names = ("batch_rows", "seed") if section == "train" else tuple(field.name for field in fields(old))
        for name in names:
            if getattr(old, name) != getattr(new, name):
                value = getattr(new, name)
                return f"{section}.{name}" if isinstance(value, tuple | dict) else f"{section}.{name}={value}"
    return "model"
