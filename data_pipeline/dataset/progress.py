"""What a build tells about itself while it runs."""

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


ProgressCallback = Callable[[BuildProgress], None]
"""Called after every document, on the thread that builds."""
