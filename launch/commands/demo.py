"""`braid demo`: shows on one machine that a run survives the loss of a worker and of a node."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    store: Annotated[str, typer.Option(help="moto, ceph, or a directory: where the data and the run are kept.")] = "moto",
    corpus: Annotated[Path | None, typer.Option(help="Text to train on; without it, Python's own source.")] = None,
    steps: Annotated[int, typer.Option(min=60, help="How long to train; long enough for both failures.")] = 150,
    everything: Annotated[
        bool, typer.Option("--all", help="Kill every node's agent too, so that only the store is left to go on from.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the files behind for a look.")] = False,
) -> None:
    """Train a small model on a cluster of three nodes, kill a worker and a node, and watch it recover and finish."""
    from launch.demo.play import run_demo  # numpy, OmegaConf and tokenizers, which other commands do without
    from launch.demo.script import SCRIPT, WHOLE_SCRIPT

    script = WHOLE_SCRIPT if everything else SCRIPT
    raise typer.Exit(run_demo(store_kind=store, corpus=corpus, num_steps=steps, keep=keep, script=script))
