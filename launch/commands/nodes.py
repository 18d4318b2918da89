"""`braid nodes`: the machines that runs use: which are out of use and why, and what is held against the others."""

import shlex
import time
from typing import Annotated

import typer

from launch.commands.options import Address, AsJson, Endpoint, Storage
from launch.commands.terminal import print_answer, tell
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of, storage_to_look_at
from launch.errors import UserError
from launch.runs import nodes as of_runs
from launch.runs.person import this_person
from launch.show.render import machines_table
from orchestrator.records.nodes import Cleared, Cordoned

app = typer.Typer(invoke_without_command=True, help="The machines of every run: list them, take them out of use, give them back.")
Machine = Annotated[str, typer.Argument(metavar="MACHINE", help="The machine's name, as `braid nodes` lists it.")]


@app.callback()
def nodes(
    context: typer.Context, as_json: AsJson = False, storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "", address: Address = ""
) -> None:
    """List the machines in the store's registry and in the cluster, if one answers: ok, cordoned, or with strikes against them."""
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context)
        return
    where = storage_to_look_at(storage, endpoint_url)
    cluster = of_runs.nodes_of_cluster(address)
    if cluster is None:
        tell("no cluster answers: only machines of which something is recorded are listed")
    found = of_runs.machines(of_runs.registry_of(where).read(), cluster or [])
    if found or as_json:
        print_answer(found, machines_table, as_json=as_json)
    else:
        tell(f"nothing is held against any machine in {where.root}")


@app.command()
def cordon(
    machine: Machine,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for those who meet it.")],
    within_s: Annotated[
        float | None,
        typer.Option("--within", metavar="SECONDS", min=0.0, help="How long runs that are on it may take to save and leave."),
    ] = None,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """Take a machine out of use: runs that are on it leave it, and none takes it until it is cleared."""
    cluster = of_runs.nodes_of_cluster(address)
    if cluster is None:
        tell(f"no cluster answers, so nothing says whether there is a machine {machine}")
    event = Cordoned(at_s=time.time(), machine=machine, reason=reason, by=this_person(), within_s=within_s)
    where = storage_of(storage, endpoint_url)
    of_runs.cordon(where, event, cluster)
    tell(f"{machine}: is cordoned; give it back with `braid nodes clear {shlex.quote(machine)}{storage_hint(where)}`")


@app.command()
def clear(machine: Machine, storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "") -> None:
    """Give a machine back: no cordon and no strike against it counts any more."""
    of_runs.clear(storage_of(storage, endpoint_url), Cleared(at_s=time.time(), machine=machine, by=this_person()))
    tell(f"{machine}: may be used again, and nothing is held against it")


def _refuse_misplaced(context: typer.Context) -> None:
    """An option before the second word would be without effect: the machine of another store would be cordoned."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0]
            raise UserError(f"{option}: write it behind the command, as in `braid nodes {context.invoked_subcommand} … {option} …`")
