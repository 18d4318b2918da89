"""How commands speak to a person: what was asked for goes to stdout, everything else to stderr."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from rich.console import Console, RenderableType

T = TypeVar("T")


def tell(line: str) -> None:
    """Prints one line on stderr."""
    typer.echo(line, err=True)


def print_answer(value: Any, view: Callable[[Any], RenderableType], *, as_json: bool) -> None:
    """Prints what was asked for: as JSON, or as `view` shows it to people."""
    if as_json:
        typer.echo(json.dumps(value, indent=1))
    else:
        Console().print(view(value))


def until_interrupted(act: Callable[[], T]) -> T | None:
    """What `act` returns, or None after Ctrl-C, which means that the person has seen enough."""
    try:
        return act()
    except KeyboardInterrupt:
        return None
