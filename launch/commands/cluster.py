"""`braid cluster`: the Ray cluster of this machine, and what nodes a cluster has."""

from typing import Annotated

import typer

from launch.commands.options import Address
from launch.commands.terminal import tell
from launch.runs.connection import reachable, start_local, stop_local

app = typer.Typer(no_args_is_help=True, help="The Ray cluster of this machine, which runs start on where no --address is given.")


@app.command()
def up(nodes: Annotated[int, typer.Option(min=1, help="How many nodes this machine plays.")] = 3) -> None:
    """Start the local cluster, if it is not there."""
    typer.echo(start_local(nodes))


@app.command()
def down() -> None:
    """Kill the local cluster and every run on it; `braid resume` goes on with them."""
    stop_local()


@app.command()
def status(address: Address = "") -> None:
    """The nodes of a cluster; exit status 1 where none answers."""
    with reachable(address) as connection:
        if connection is None:
            tell("no local cluster; start one with `braid cluster up`")
            raise typer.Exit(1)
        for node in connection.nodes():
            typer.echo(
                f"{node.node}  {node.machine}  {node.address}  {'alive' if node.is_alive else 'dead'}  "
                f"{node.num_cpus:g} CPUs  {node.num_gpus:g} GPUs"
            )
