"""`braid`: what a person types. Here the commands are put together, and errors become lines and exit statuses.

Exit status: 0 good, 1 the thing asked about is not, 2 the request can't be done (one line says why and what to do),
3 a followed run was stopped, 4 a run that is followed, or to be stopped, does not answer: it may have ended, and it may go on.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from launch.commands import alerts, cluster, demo, doctor, health, incidents, metrics, model, nodes, report, runs, top, ui, weights
from launch.commands.data import app as data
from launch.commands.terminal import lost_output, prepare_output
from launch.errors import Abandoned, UserError
from orchestrator.errors import is_expected
from orchestrator.node.home import home_directory

COMMANDS: dict[str, Callable[..., None]] = {
    "doctor": doctor.doctor,
    "demo": demo.demo,
    "model": model.model,
    "import": weights.import_weights,
    "export": weights.export_weights,
    "average": weights.average_weights,
    "submit": runs.submit,
    "status": runs.status,
    "top": top.top,
    "logs": runs.logs,
    "stop": runs.stop,
    "resume": runs.resume,
    "repair": runs.repair,
    "runs": runs.runs,
    "ui": ui.ui,
    "incidents": incidents.incidents,
    "verify": runs.verify,
    "goodput": health.goodput,
    "checkpoints": runs.checkpoints,
    "report": report.report,
}
"""In the order of `braid --help`."""
GROUPS = {"data": data.app, "cluster": cluster.app, "nodes": nodes.app, "alerts": alerts.app, "metrics": metrics.app}
"""Commands of two words, such as `braid data build`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status for an error that a person can put right; others keep their traceback, because they are bugs."""
    prepare_output()
    if _is_nowhere():
        _complain("the directory that this was typed in is not there any more; `cd` to one that is")
        return 2
    ending: BaseException | None = None
    try:
        app(args=None if arguments is None else list(arguments))
    except (Exception, SystemExit) as error:  # noqa: BLE001 — a bug is raised again below
        ending = error
    if lost := lost_output(ending):
        _complain(f"what was to be told could not be written: {lost}")
        return 2
    return 0 if ending is None else _status_of(ending)


def _is_nowhere() -> bool:
    """Whether the working directory was removed: torch and Ray end a process there, whatever it is to do."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _status_of(ending: BaseException) -> int:
    """Raises what is a bug."""
    if isinstance(ending, SystemExit) and isinstance(ending.code, int):
        return ending.code
    if isinstance(ending, OSError) and (home := home_directory()) in (path := Path(str(ending.filename)), *path.parents):
        _complain(f"{path}: {ending.strerror}; set BRAID_HOME to a directory of yours, it is {home}")
        return 2
    if not isinstance(ending, UserError) and not is_expected(ending):
        raise ending
    _complain(" ".join(line.strip() for line in str(ending).splitlines()))
    return 4 if isinstance(ending, Abandoned) else 2


def _complain(line: str) -> None:
    with suppress(OSError):
        print(f"braid: {line}", file=sys.stderr, flush=True)


def build_app() -> typer.Typer:
    built = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Train hybrid language models, and keep training."
    )
    built.callback()(_options_of_braid)
    for name, command in COMMANDS.items():
        built.command(name)(command)
    for name, group in GROUPS.items():
        built.add_typer(group, name=name)
    return built


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("braid"))
        raise typer.Exit


def _options_of_braid(
    show_version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


app = build_app()

if __name__ == "__main__":
    sys.exit(main())
