"""Where people read what braid prints."""

from rich.console import Console

MIN_COLUMNS = 60


def console(*, stderr: bool = False) -> Console:
    """Prints what it is given, and takes nothing in it for markup. What has no room is wrapped by the terminal rather than left out."""
    made = Console(stderr=stderr, markup=False, emoji=False)
    made.width = max(made.width, MIN_COLUMNS)
    return made
