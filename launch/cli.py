"""`braid`: what a person types. Here the commands are put together, and errors become lines and exit statuses.

Exit status: 0 good, 1 the thing asked about is not, 2 the request can't be done (one line says why and what to do),
3 a followed run was stopped, 4 a followed run does not answer any more: it may have ended, and it may go on.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from launch.commands import cluster, data, demo, doctor, model, nodes, runs, weights
from launch.errors import Abandoned, UserError
from orchestrator.errors import is_expected

COMMANDS: dict[str, Callable[..., None]] = {
    "doctor": doctor.doctor,
    "demo": demo.demo,
    "model": model.model,
    "import": weights.import_weights,
    "export": weights.export_weights,
    "average": weights.average_weights,
    "submit": runs.submit,
    "status": runs.status,
    "logs": runs.logs,
    "stop": runs.stop,
    "resume": runs.resume,
    "repair": runs.repair,
    "runs": runs.runs,
    "verify": runs.verify,
    "checkpoints": runs.checkpoints,
}
"""In the order of `braid --help`."""
GROUPS = {"data": data.app, "cluster": cluster.app, "nodes": nodes.app}
"""Commands of two words, such as `braid data build`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status for an error that a person can put right; others keep their traceback, because they are bugs."""
    try:
        app(args=None if arguments is None else list(arguments))
    except Exception as error:
        if not isinstance(error, UserError) and not is_expected(error):
            raise
        print(f"braid: {' '.join(str(error).split())}", file=sys.stderr)
        return 4 if isinstance(error, Abandoned) else 2
    return 0


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
