"""How far long work is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Told before each piece of work: its number, from 1, of how many."""


def unwatched(_number: int, _total: int) -> None:
    """For work that nobody watches."""
