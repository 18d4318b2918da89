"""`braid cluster`, `braid doctor`, `braid demo`: the machine rather than a run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launch.commands.options import Address, Endpoint, Storage
from launch.config.storage import DEFAULT_ROOT, storage_of

app = typer.Typer(no_args_is_help=True, help="The Ray cluster of this machine, which runs start on where no --address is given.")


@app.command()
def up(nodes: Annotated[int, typer.Option(min=1, help="How many nodes this machine plays.")] = 3) -> None:
    """Start the local cluster, if it is not there."""
    from launch.runs.connection import start_local

    typer.echo(start_local(nodes))


@app.command()
def down() -> None:
    """Kill the local cluster and every run on it; `braid resume` goes on with them."""
    from launch.runs.connection import stop_local

    stop_local()


@app.command()
def status(address: Address = "") -> None:
    """The nodes of a cluster; exit status 1 where none answers."""
    from launch.runs.connection import reachable

    with reachable(address) as cluster:
        if cluster is None:
            typer.echo("no local cluster; start one with `braid cluster up`", err=True)
            raise typer.Exit(1)
        for node in cluster.nodes():
            typer.echo(
                f"{node.node}  {node.address}  {'alive' if node.is_alive else 'dead'}  {node.num_cpus:g} CPUs  {node.num_gpus:g} GPUs"
            )


def doctor(storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "", address: Address = "") -> None:
    """Check this machine, the store and the cluster; exit status 1 where something would not work."""
    from launch.machine.doctor import examine
    from launch.runs.connection import check_cluster
    from launch.show.render import checks_table
    from orchestrator.node.home import home_directory

    where = storage_of(storage, endpoint_url)
    with Console(stderr=True).status(f"looking at this machine, {where.root} and the cluster"):
        checks = list(examine(where, home=home_directory(), cluster=lambda: check_cluster(address)))
    Console().print(checks_table(checks))
    raise typer.Exit(1 if any(check.level == "fail" for check in checks) else 0)


def demo(
    store: Annotated[str, typer.Option(help="moto, ceph, or a directory: where the data and the run are kept.")] = "moto",
    corpus: Annotated[Path | None, typer.Option(help="Text to train on; without it, Python's own source.")] = None,
    steps: Annotated[int, typer.Option(min=60, help="How long to train; long enough for both failures.")] = 150,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the files behind for a look.")] = False,
) -> None:
    """Train a small model on a cluster of three nodes, kill a worker and a node, and watch it recover and finish."""
    from launch.demo.demo import run_demo

    raise typer.Exit(run_demo(store_kind=store, corpus=corpus, num_steps=steps, keep=keep))
