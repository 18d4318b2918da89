"""`braid`: what a person types. Commands print what was asked for on stdout and everything else on stderr.

Exit status: 0 good, 1 the thing asked about is not, 2 the request can't be done (one line says why and what to do),
3 a followed run was stopped.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import AccessDenied, BucketMissing, StoreUnavailable
from launch.commands import cluster as cli_cluster
from launch.commands import data as cli_data
from launch.commands import model as cli_model
from launch.commands.options import Address, AsJson, Endpoint, Overrides, RunName, Storage
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of, storage_to_look_at
from launch.errors import Abandoned, UserError
from orchestrator.config import RunConfig
from orchestrator.errors import is_expected

POLL_S = 0.5
T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train hybrid language models, and keep training."
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_cluster.app, name="cluster")
app.command()(cli_cluster.doctor)
app.command()(cli_cluster.demo)
app.command("model")(cli_model.show_model)
app.command("import")(cli_model.import_weights)
app.command("export")(cli_model.export_weights)
app.command("average")(cli_model.average_weights)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status for an error that a person can put right; others keep their traceback, because they are bugs."""
    try:
        app(args=None if arguments is None else list(arguments))
    except Exception as error:
        if not isinstance(error, UserError) and not is_expected(error):
            raise
        print(f"braid: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, Abandoned) else 2
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("braid"))
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def submit(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that ships with braid.")],
    overrides: Overrides = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay, show progress, and return the run's outcome: 0 finished, 1 failed, 3 stopped.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the resolved configuration, the layout and the token budget.")
    ] = False,
    address: Address = "",
) -> None:
    """Start a run. Its name is printed alone on stdout."""
    from launch.config.budget import warnings_of
    from launch.config.load import load_config

    config = load_config(recipe, overrides or [])
    for warning in warnings_of(config):
        _tell(f"warning: {warning}")
    if dry_run:
        _show_plan(config)
        return
    from launch.runs.lifecycle import submit as submit_run

    submit_run(config, address=address, tell=_tell)
    typer.echo(config.name)
    _tell(f"watch it with `braid status {config.name} --watch{storage_hint(config.storage)}`")
    if follow:
        _follow(config.name, config.storage.root, config.storage.endpoint_url, address)


@app.command()
def status(
    run: RunName,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until the run ends.")] = False,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """How a run is doing; exit status 1 when it has failed. Works from the run's journal when the cluster is gone."""
    from launch.runs.lifecycle import open_view
    from launch.show.follow import show, show_json, statuses, warned
    from launch.show.render import status_view

    with open_view(storage_to_look_at(storage, endpoint_url), run, address) as view:
        if watch:
            seen = warned(statuses(view.followed_status, poll_s=POLL_S), _tell)
            last = _until_interrupted(lambda: show_json(seen, typer.echo) if as_json else show(seen, Console()))
        else:
            last = view.status()
            typer.echo(json.dumps(last, indent=1)) if as_json else Console().print(status_view(last))
    raise typer.Exit(1 if last is not None and last["state"] == "failed" else 0)


@app.command()
def logs(
    run: RunName,
    rank: Annotated[int, typer.Option(min=0, help="Whose log.")] = 0,
    attempt: Annotated[int, typer.Option(min=0, help="Of which attempt; 0 is the newest.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and print what is added.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """What one worker printed."""
    from launch.runs.lifecycle import open_view

    def show() -> None:
        with open_view(storage_to_look_at(storage, endpoint_url), run, address) as view:
            for chunk in view.log(rank, attempt, follow=follow):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()

    _until_interrupted(show)


@app.command()
def stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="Without a checkpoint: what came after the last one is lost.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """Write a checkpoint, then stop. Returns when the run has ended; exit status 1 where that checkpoint failed."""
    from launch.runs.lifecycle import lost_its_last_checkpoint
    from launch.runs.lifecycle import stop as stop_run

    where = storage_of(storage, endpoint_url)
    last = stop_run(where, run, now=now, address=address, tell=_tell)
    _tell(f"{run}: {last['state']} ({last['reason']}), last checkpoint at step {last['last_committed_step']}")
    _tell(f"go on with `braid resume {run}{storage_hint(where)}`")
    raise typer.Exit(1 if last["state"] == "failed" or lost_its_last_checkpoint(last) else 0)


@app.command()
def resume(
    run: RunName,
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay, as in `braid submit --follow`.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """Go on with a run that was stopped, has failed, or lost its cluster."""
    from launch.runs.lifecycle import resume as resume_run

    resume_run(storage_of(storage, endpoint_url), run, overrides or [], address=address, tell=_tell)
    typer.echo(run)
    if follow:
        _follow(run, storage, endpoint_url, address)


@app.command()
def runs(as_json: AsJson = False, storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "") -> None:
    """Every run in the store, as its journal tells it, and imported and averaged weights."""
    from launch.runs.record import recorded_runs
    from launch.show.render import runs_table

    where = storage_to_look_at(storage, endpoint_url)
    found = recorded_runs(where, time.time())
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    elif found:
        Console().print(runs_table(found))
    else:
        _tell(f"no runs in {where.root}; begin one with `braid submit tiny`")


@app.command()
def verify(run: RunName, storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "") -> None:
    """Prove from the run's records that every step ran once on the right samples, and that replays agree bit for bit."""
    from launch.runs.inspect import proof_of
    from launch.runs.record import read_run

    proof = proof_of(read_run(storage_to_look_at(storage, endpoint_url), run))
    typer.echo(proof.line)
    raise typer.Exit(0 if proof.ok else 1)


@app.command()
def checkpoints(
    run: RunName,
    verify_files: Annotated[
        bool, typer.Option("--verify", help="Read every file and check its digest; without it, only that each is there in its size.")
    ] = False,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """The checkpoints that a resume may use, newest first; exit status 1 when one is damaged."""
    from launch.runs.inspect import list_checkpoints
    from launch.runs.record import run_store_with_checkpoints
    from launch.show.render import checkpoints_table

    found = list_checkpoints(run_store_with_checkpoints(storage_to_look_at(storage, endpoint_url), run), verify=verify_files)
    typer.echo(json.dumps(found, indent=1)) if as_json else Console().print(checkpoints_table(found))
    problems = [one["problem"] for one in found if one["problem"]]
    for problem in problems:
        _tell(f"braid: {problem}")
    raise typer.Exit(1 if problems else 0)


def _show_plan(config: RunConfig) -> None:
    """What a submission would do, and where the run would begin, with the same checks if the store can be asked."""
    from launch.config.budget import budget_lines
    from launch.config.load import dump_yaml
    from launch.runs.preflight import start_line

    typer.echo(dump_yaml(config) + "".join(f"# {line}\n" for line in budget_lines(config)), nl=False)
    if config.start.run:
        store = open_store(storage_to_look_at(config.storage.root, config.storage.endpoint_url))
        try:
            typer.echo(f"# {start_line(config, store)}")
        except (AccessDenied, BucketMissing, StoreUnavailable) as error:
            _tell(f"warning: start.run={config.start.run}: not checked: {error}")


def _follow(run: str, root: str, endpoint_url: str, address: str) -> None:
    from launch.runs.lifecycle import open_view
    from launch.show.follow import EXIT_STATUS, show, statuses, warned

    with open_view(storage_of(root, endpoint_url), run, address) as view:
        seen = warned(statuses(view.followed_status, poll_s=POLL_S), _tell)
        last = _until_interrupted(lambda: show(seen, Console(stderr=True)))
    if last is None:
        _tell(f"detached; {run} goes on")
    else:
        raise typer.Exit(EXIT_STATUS[last["state"]])


def _until_interrupted(act: Callable[[], T]) -> T | None:
    """What `act` returns, or None after Ctrl-C, which means: enough."""
    try:
        return act()
    except KeyboardInterrupt:
        return None


def _tell(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    sys.exit(main())
