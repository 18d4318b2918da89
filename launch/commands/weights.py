"""`braid import`, `export` and `average`: weights in and out of the store."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from launch.commands.bars import bars
from launch.commands.options import Endpoint, RunName, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of
from launch.errors import UserError

NewName = Annotated[str, typer.Option("--name", help="Of the run that holds the weights.")]


def import_weights(
    directory: Annotated[Path, typer.Argument(metavar="HF_DIR", help="A Hugging Face directory of an OLMo hybrid or Olmo 3 model.")],
    name: NewName = "",
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Make a run of released weights, to train on from or to export again. Its name is printed alone on stdout."""
    from launch.weights.hugging_face import import_hf, name_from  # torch, which other commands do without

    where = storage_of(storage, endpoint_url)
    with bars(of_bytes=True) as stage:
        manifest = import_hf(where, directory, name or name_from(directory), stage=stage)
    typer.echo(manifest.run)
    tell(f"train from these weights with start.run={manifest.run}, or export them with `braid export {manifest.run}{storage_hint(where)}`")


def export_weights(
    run: RunName,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The directory to make.")],
    step: Annotated[int, typer.Option(min=-1, help="Of which checkpoint; -1 is the newest.", show_default=False)] = -1,
    dtype: Annotated[
        Literal["stored", "bfloat16", "float32"], typer.Option(help="Of the weights; stored: as they are, fp32 of a trained run.")
    ] = "stored",
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Write a checkpoint as a Hugging Face directory, tokenizer included."""
    import torch

    from launch.weights.hugging_face import export_hf

    wanted = None if dtype == "stored" else getattr(torch, dtype)
    with bars(of_bytes=True) as stage:
        manifest = export_hf(storage_of(storage, endpoint_url), run, step, out, dtype=wanted, scratch=_scratch(), stage=stage, tell=tell)
    typer.echo(out)
    tell(f"step {manifest.step} of run {run} ({manifest.origin})")


def average_weights(
    checkpoints: Annotated[list[str], typer.Argument(metavar="RUN[@STEP]…", help="Checkpoints of one model; without a step, the newest.")],
    name: NewName,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Make a run of the mean of checkpoints' weights. Its name is printed alone on stdout."""
    from launch.weights.average import average

    sources = [_checkpoint(text) for text in checkpoints]
    if len(sources) < 2:
        raise UserError(f"braid average: {len(sources)} checkpoint is its own mean; name two or more, as RUN@STEP")
    where = storage_of(storage, endpoint_url)
    with bars(of_bytes=True) as stage:
        manifest = average(where, sources, name, scratch=_scratch(), stage=stage, tell=tell)
    typer.echo(manifest.run)
    tell(f"{manifest.origin}; train on from it with start.run={name}")


def _checkpoint(text: str) -> tuple[str, int]:
    """RUN@STEP, or RUN for its newest. Raises UserError."""
    run, at, step = text.partition("@")
    if at and not step.isdecimal():
        raise UserError(f"{text}: the step is not a number; write RUN@STEP, as `braid checkpoints {shlex.quote(run)}` lists them")
    return run, int(step) if at else -1


def _scratch() -> Path:
    from orchestrator.worker.environment import cache_dir

    return cache_dir(os.environ)
