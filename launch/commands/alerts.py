"""`braid alerts`: whether those who are to be told of a run's troubles can be."""

import os
import time
from typing import Annotated

import typer

from launch.commands.options import Endpoint, Overrides, Storage
from launch.commands.terminal import tell
from launch.config.storage import DEFAULT_ROOT, storage_to_look_at
from launch.errors import NoSuchRun, UserError
from launch.runs.record import read_run
from orchestrator.alerting.message import Message, message_of
from orchestrator.alerting.receivers import NotTaken, Receiver, receivers_of
from orchestrator.alerting.state import News
from orchestrator.config import RUN_NAME, RunConfig
from orchestrator.health.conditions import Condition, Kind, Severity
from orchestrator.identity import RunIdentity

app = typer.Typer(no_args_is_help=True, help="Who is told of a run's troubles.")


@app.callback()
def alerts() -> None:
    """Who is told of a run's troubles."""


@app.command("test")
def send_test(
    recipe_or_run: Annotated[
        str, typer.Argument(metavar="RECIPE|RUN", help="A run of the store or a recipe, whose section `alerts` counts.")
    ],
    overrides: Overrides = None,
    storage: Storage = DEFAULT_ROOT,
    endpoint_url: Endpoint = "",
) -> None:
    """Send one message to every receiver, and say what each answered; exit status 1 where one did not take it.

    Addresses and passwords are read on this machine; a run's controller reads them on its own.
    """
    config, run = _config_of(recipe_or_run, overrides or [], storage, endpoint_url)
    receivers = receivers_of(config.alerts, os.environ)
    if not receivers:
        raise UserError(f"{recipe_or_run}: tells nobody; set alerts.slack=[env:NAME], or webhooks, commands, emails: see docs/alerts.md")
    now_s = time.time()
    condition = Condition(
        key="test", kind=Kind.TEST, severity=Severity.INFO, line="a test: nothing is wrong", command=f"braid status {config.name}"
    )
    message = message_of(run, [News(number=0, at_s=now_s, condition=condition, began_at_s=now_s)], config.storage)
    answers = [(receiver.name, *_answer(receiver, message)) for receiver in receivers]
    for name, answer, has_taken in answers:
        tell(f"{name}: {'took it' if has_taken else 'DID NOT TAKE IT'}: {answer}")
    raise typer.Exit(0 if all(has_taken for _, _, has_taken in answers) else 1)


def _answer(receiver: Receiver, message: Message) -> tuple[str, bool]:
    try:
        return receiver.send(message), True
    except NotTaken as error:
        return str(error), False


def _config_of(name: str, overrides: list[str], storage: str, endpoint_url: str) -> tuple[RunConfig, RunIdentity]:
    """Of a run where there is one of this name, else of a recipe. Raises UserError."""
    from launch.config.load import change_config, load_config  # OmegaConf, which other commands do without

    if RUN_NAME.fullmatch(name) and not name.endswith((".yaml", ".yml")):
        try:
            record = read_run(storage_to_look_at(storage, endpoint_url), name)
            return change_config(record.config, overrides), record.identity
        except NoSuchRun:
            pass
    config = load_config(name, overrides)
    return config, RunIdentity(name=config.name, id="test")
