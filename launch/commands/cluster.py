"""`braid cluster`: the Ray cluster of this machine, and what nodes a cluster has."""

from typing import Annotated

import typer

from launch.commands.options import Address
from launch.commands.terminal import tell
from launch.errors import UserError
from launch.runs.connection import reachable, start_local, stop_local
from orchestrator.node.notice import run_node

app = typer.Typer(no_args_is_help=True, help="The Ray cluster of this machine, which runs start on where no --address is given.")


@app.command()
def up(nodes: Annotated[int, typer.Option(min=1, help="How many nodes this machine plays.")] = 3) -> None:
    """Start the local cluster, if it is not there."""
    typer.echo(start_local(nodes))


@app.command()
def down() -> None:
    """Kill the local cluster and every run on it; `braid resume` goes on with them."""
    stop_local()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False})
def node(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND…", help="What starts Ray here, as `ray start --head --block` does.")],
) -> None:
    """Hold this machine's part of a cluster: at SIGTERM, the runs on it save and leave, and then it ends.

    Without this Ray ends at once, and what its runs have not saved is lost.
    """
    try:
        raise typer.Exit(run_node(command))
    except OSError as error:
        raise UserError(f"{command[0]}: {error.strerror}; use `braid cluster node ray start --head --block`, or the like") from error


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
