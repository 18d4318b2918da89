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
    num_text_bytes: int = 0
    """Of the documents so far, in UTF-8."""
    read_bytes: int = 0
    """Of the corpus's files, as they lie there."""
    size_bytes: int = 0
    """Of all of them."""


ProgressCallback = Callable[[BuildProgress], None]
"""Called when a build begins or goes on, after every batch of documents and after the last shard, on the thread that builds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a build is."""

    text_bytes_per_s: float
    tokens_per_s: float
    left_s: float | None
    """Until the corpus is read; None where nothing tells."""


def pace_of(begun: BuildProgress, now: BuildProgress, taken_s: float) -> Pace:
    """From `begun`, which an earlier build may have come to, to `now`."""
    taken_s = max(taken_s, 1e-9)
    read = now.read_bytes - begun.read_bytes
    return Pace(
        text_bytes_per_s=(now.num_text_bytes - begun.num_text_bytes) / taken_s,
        tokens_per_s=(now.num_tokens - begun.num_tokens) / taken_s,
        left_s=(now.size_bytes - now.read_bytes) * taken_s / read if read > 0 else None,
    )


Progress = Callable[[int, int], None]
"""Told before each piece of work: its number, from 1, of how many."""


def unwatched(_number: int, _total: int) -> None:
    """For work that nobody watches."""
