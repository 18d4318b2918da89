"""Commands about runs: `braid submit`, `status`, `logs`, `stop`, `resume`, `runs`, `verify` and `checkpoints`."""

import sys
import time
from typing import Annotated

import typer

from data_pipeline.store.open import open_store
from data_pipeline.store.protocol import AccessDenied, BucketMissing, StoreUnavailable
from launch.commands.bars import bars
from launch.commands.options import Address, AsJson, Endpoint, Overrides, RunName, Storage
from launch.commands.terminal import print_answer, tell, until_interrupted
from launch.config.budget import budget_lines, warnings_of
from launch.config.storage import DEFAULT_ROOT, storage_hint, storage_of, storage_to_look_at
from launch.errors import UserError
from launch.runs import lifecycle
from launch.runs.inspect import list_checkpoints, proof_of
from launch.runs.person import this_person
from launch.runs.preflight import dry_data_lines, start_lines
from launch.runs.record import read_run, recorded_runs, run_store_with_checkpoints
from launch.runs.repair import repair as mend
from launch.runs.trust import trust
from launch.runs.view import open_view, statuses
from launch.show.console import console
from launch.show.follow import show, show_json, warned
from launch.show.render import checkpoints_table, runs_table, status_view
from launch.status import ENDED, Status
from orchestrator.config import RunConfig

POLL_S = 0.5
EXIT_STATUS = {"finished": 0, "failed": 1, "stopped": 3}
"""What `--follow` returns for each outcome of a run."""


def submit(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that ships with braid.")],
    overrides: Overrides = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Stay, show progress, and return the run's outcome: 0 finished, 1 failed, 3 stopped, 4 nothing answers: it may go on.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the resolved configuration, the layout and the token budget.")
    ] = False,
    address: Address = "",
) -> None:
    """Start a run. Its name is printed alone on stdout."""
    from launch.config.load import load_config  # OmegaConf, which other commands do without

    config = load_config(recipe, overrides or [])
    for warning in warnings_of(config):
        tell(f"warning: {warning}")
    if dry_run:
        _print_plan(config)
        return
    lifecycle.submit(config, address=address, tell=tell)
    typer.echo(config.name)
    tell(f"watch it with `braid status {config.name} --watch{storage_hint(config.storage)}`")
    if follow:
        _follow(config.name, config.storage.root, config.storage.endpoint_url, address)


def status(
    run: RunName,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until the run ends.")] = False,
    ended: Annotated[
        bool,
        typer.Option(
            "--ended", help="Print nothing; exit status 0 when the run has ended, 1 when it goes on. For scripts: asks the store only."
        ),
    ] = False,
    page: Annotated[int, typer.Option("--workers", metavar="PAGE", min=1, help="Which of the workers, 64 on a page.")] = 1,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """How a run is doing. Works from the run's journal when the cluster is gone.

    Exit status: 0 when it goes on or ended well, 1 when it has failed, 2 when that can't be told, 4 when --watch got no answer any more.
    """
    where = storage_to_look_at(storage, endpoint_url)
    if ended:
        raise typer.Exit(0 if read_run(where, run).has_ended else 1)
    with open_view(where, run, address, tell=tell) as view:
        if watch:
            seen = warned(statuses(lambda: view.followed_status(page), poll_s=POLL_S), tell)
            last = until_interrupted(lambda: show_json(seen, typer.echo) if as_json else show(seen, console()))
        else:
            last = view.status(page)
            _refuse_empty_page(last, page)
            print_answer(last, status_view, as_json=as_json)
    raise typer.Exit(1 if last is not None and last["state"] == "failed" else 0)


def logs(
    run: RunName,
    rank: Annotated[int, typer.Option(min=0, help="Whose log.")] = 0,
    attempt: Annotated[int, typer.Option(min=0, help="Of which attempt; 0 is the newest, and with --follow those after it.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay, and print what is added.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """What one worker printed."""

    def print_log() -> None:
        with open_view(storage_to_look_at(storage, endpoint_url), run, address, tell=tell) as view:
            for chunk in view.log(rank, attempt, follow=follow):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()

    until_interrupted(print_log)


def stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="Without a checkpoint: what came after the last one is lost.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """Write a checkpoint, then stop. Returns when the run has ended; exit status 1 where that checkpoint failed.

    Where its cluster can't be seen, the stop is recorded on the store; exit status 4 where workers may still train on.
    """
    where = storage_of(storage, endpoint_url)
    last = lifecycle.stop(where, run, now=now, address=address, tell=tell)
    if last["state"] not in ENDED:
        tell(f"{run}: is to stop, and may not have; last checkpoint at step {last['last_committed_step']}")
        raise typer.Exit(4)
    tell(f"{run}: {last['state']} ({last['reason']}), last checkpoint at step {last['last_committed_step']}")
    if last["state"] != "finished":
        tell(f"go on with `braid resume {run}{storage_hint(where)}`")
    raise typer.Exit(1 if last["state"] == "failed" or lifecycle.lost_its_last_checkpoint(last) else 0)


def resume(
    run: RunName,
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay, as in `braid submit --follow`.")] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
    address: Address = "",
) -> None:
    """Go on with a run that was stopped, has failed, or lost its cluster. A stop that is under way is withdrawn."""
    lifecycle.resume(storage_of(storage, endpoint_url), run, overrides or [], address=address, tell=tell)
    typer.echo(run)
    if follow:
        _follow(run, storage, endpoint_url, address)


def repair(run: RunName, storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "", address: Address = "") -> None:
    """Go on with a run whose records have gaps: say what is missing and what is still proved, and fill the gaps with new entries."""
    where = storage_of(storage, endpoint_url)
    if mend(where, run, by=this_person(), address=address, at_s=time.time(), tell=tell):
        hint = storage_hint(where)
        tell(f"{run}: can be stopped with `braid stop {run}{hint}`, and goes on with `braid resume {run}{hint}`")


def runs(as_json: AsJson = False, storage: Storage = DEFAULT_ROOT, endpoint_url: Endpoint = "") -> None:
    """Every run in the store, as its journal tells it, and imported and averaged weights."""
    where = storage_to_look_at(storage, endpoint_url)
    found = recorded_runs(where, time.time())
    if found or as_json:
        print_answer(found, runs_table, as_json=as_json)
    else:
        tell(f"no runs in {where.root}; begin one with `braid submit tiny`")


def verify(
    run: RunName,
    data: Annotated[
        bool, typer.Option("--data", help="Read the dataset's shards again, and compare with what every step trained on.")
    ] = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Prove from the run's records that every step ran once on the right samples, and that replays agree: tokens, and bit for bit.

    The records hold a digest of each step's tokens, as they were read; whether the dataset has these tokens is what --data asks.
    """
    record = read_run(storage_to_look_at(storage, endpoint_url), run)
    with bars() as begin:
        proof = proof_of(record, reading=begin("reading the dataset's shards") if data else None)
    typer.echo(proof.line)
    raise typer.Exit(0 if proof.ok else 1)


def checkpoints(
    run: RunName,
    verify_files: Annotated[
        bool, typer.Option("--verify", help="Read every file and check its digest; without it, only that each is there in its size.")
    ] = False,
    trusted_step: Annotated[
        int | None,
        typer.Option(
            "--trust", metavar="STEP", min=0, help="Take back that workers rejected the checkpoint of this step: it counts again."
        ),
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="With --trust: whose checkpoint, where those of several attempts were rejected.")
    ] = None,
    as_json: AsJson = False,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """The checkpoints that a resume may use, newest first; exit status 1 when one is damaged."""
    run_store = run_store_with_checkpoints(storage_to_look_at(storage, endpoint_url), run)
    if trusted_step is not None:
        trusted = trust(run_store, run, trusted_step, attempt=attempt, verify=verify_files, by=this_person())
        tell(f"{run}: the checkpoint of step {trusted_step} counts again; an attempt that begins now starts from step {trusted[0].step}")
        return
    if attempt is not None:
        raise typer.BadParameter("says whose checkpoint --trust means; give --trust too", param_hint="--attempt")
    with bars() as begin:
        found = list_checkpoints(run_store, reading=begin("reading checkpoints") if verify_files else None)
    print_answer(found, checkpoints_table, as_json=as_json)
    problems = [one["problem"] for one in found if one["problem"]]
    for problem in problems:
        tell(f"braid: {problem}")
    raise typer.Exit(1 if problems else 0)


def _print_plan(config: RunConfig) -> None:
    """What a submission would do, and where the run would begin, with the same checks if the store can be asked."""
    from launch.config.load import dump_yaml

    typer.echo(dump_yaml(config) + "".join(f"# {line}\n" for line in budget_lines(config)), nl=False)
    store = open_store(storage_to_look_at(config.storage.root, config.storage.endpoint_url))
    lines = {f"start.run={config.start.run}": start_lines} if config.start.run else {}
    for what, lines_of in (lines | {f"datasets {', '.join(config.data.datasets)}": dry_data_lines}).items():
        try:
            for line in lines_of(config, store):
                typer.echo(f"# {line}")
        except (AccessDenied, BucketMissing, StoreUnavailable) as error:
            tell(f"warning: {what}: not checked: {error}")
            return


def _refuse_empty_page(status: Status, page: int) -> None:
    if status["num_workers"] and not status["workers"]:
        raise UserError(
            f"--workers {page}: run {status['run']} has {status['num_workers']:,} workers, and none is on this page; use a lower one"
        )


def _follow(run: str, root: str, endpoint_url: str, address: str) -> None:
    """Shows progress on stderr until the run ends, then exits with its outcome; Ctrl-C leaves the run alone."""
    with open_view(storage_of(root, endpoint_url), run, address, tell=tell) as view:
        seen = warned(statuses(view.followed_status, poll_s=POLL_S), tell)
        last = until_interrupted(lambda: show(seen, console(stderr=True)))
    if last is None:
        tell(f"detached; {run} goes on")
    else:
        raise typer.Exit(EXIT_STATUS[last["state"]])
