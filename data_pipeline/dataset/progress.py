"""What long work tells about itself while it runs."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildProgress:
    """How far a build has come since it began."""

    num_documents: int
    num_tokens: int
    """Tokens of all documents so far, their eos included."""
    num_shards: int
    """Shards that are complete on the store."""
    num_unknown: int = 0
    """Tokens so far that stand for text which the tokenizer doesn't know."""


ProgressCallback = Callable[[BuildProgress], None]
"""Called after every document and after the last shard, on the thread that builds."""

Progress = Callable[[int, int], None]
"""Told before each piece of work: its number, from 1, of how many."""


def unwatched(_number: int, _total: int) -> None:
    """For work that nobody watches."""
