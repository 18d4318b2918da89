"""How commands speak to a person: what was asked for goes to stdout, everything else to stderr."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import typer
from rich.console import RenderableType

from launch.show.answer_json import answer_json
from launch.show.console import console

T = TypeVar("T")


def tell(line: str) -> None:
    """Prints one line on stderr."""
    typer.echo(line, err=True)


def print_answer(value: Any, view: Callable[[Any], RenderableType], *, as_json: bool) -> None:
    """Prints what was asked for: as JSON, or as `view` shows it to people."""
    if as_json:
        typer.echo(answer_json(value, indent=1))
    else:
        console().print(view(value))


def until_interrupted(act: Callable[[], T]) -> T | None:
    """What `act` returns, or None after Ctrl-C, which means that the person has seen enough."""
    try:
        return act()
    except KeyboardInterrupt:
        return None


def prepare_output() -> None:
    """What a stream can't encode is told by its number; one that is closed takes everything and keeps nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 — for as long as the process lives
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def lost_output(error: BaseException | None) -> str:
    """Why what was printed did not get where it should, "" where it did; the process's end does not try it again.

    `error` ended the command: where that can be a stream's, which may have dropped what it was given, one more line is tried.
    """
    is_suspect = isinstance(error, OSError) and error.filename is None
    reason = ""
    for stream in (sys.stdout, sys.stderr):
        try:
            if is_suspect and not reason:
                stream.write("\n")
            stream.flush()
        except OSError as error:
            reason = reason or error.strerror or str(error)
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return reason
