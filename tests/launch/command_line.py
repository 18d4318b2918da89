"""The command line in this process, as tests type it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from launch import cli


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: str
    err: str


class Braid:
    """Runs the command line in this process, with a store of its own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        try:
            status = cli.main(arguments)
        except SystemExit as ending:
            status = ending.code if isinstance(ending.code, int) else 1
        captured = self._capsys.readouterr()
        return Done(status, captured.out, captured.err)
