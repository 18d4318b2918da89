"""Samples of shards, and the blocks that they lie in, as arrays. Pure.

A block is S consecutive samples of one shard, about 4 MiB of tokens, as many as fit from the shard's beginning. Of what is left at a
shard's end, whole units of U tokens, in the order of the shards, make up further blocks. The last units, too few for a block, and what
is left of a unit are the tail, in no block. Samples of every T that divides U have the same blocks: U is the longest T of a run.
Rows that documents are packed into have the packing's windows (`best_fit.py`) as blocks, and a row as their unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.order.vectors import Ints

BLOCK_TOKENS = 2**20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockTable:
    """Finds samples by their index and by their place, each in O(log shards).

    A place is a number like an index, but in the order of blocks: place // S is the block, and from num_blocks * S on lies the tail.
    """

    seq_len: int
    """T: input tokens of a sample."""
    block_samples: int
    """S: samples of a block."""
    num_blocks: int
    shard_ends: Ints
    """For each shard, the number of samples in it and in all shards before it."""
    piece_ends: Ints
    """For each run of samples with consecutive places, the place after its last."""
    piece_shifts: Ints
    """What is added to its places to give indices."""

    @property
    def num_samples(self) -> int:
        return int(self.shard_ends[-1]) if len(self.shard_ends) else 0

    def index_of(self, places: Ints) -> Ints:
        """The samples at places in [0, num_samples)."""
        return places + self.piece_shifts[_first_beyond(self.piece_ends, places)]


def _first_beyond(ends: Ints, values: Ints) -> Ints:
    """For each value, the number of the first end above it. In the order of values, which is three times as fast."""
    order = np.argsort(values)
    found = np.empty_like(order)
    found[order] = np.searchsorted(ends, values[order], side="right")
    return found


def cut_blocks(
    shard_tokens: Sequence[int] | Ints, *, seq_len: int, unit_tokens: int | None = None, block_tokens: int = BLOCK_TOKENS
) -> BlockTable:
    """The blocks of shards of so many tokens each. `unit_tokens` is a multiple of `seq_len`, which is what it is if left out."""
    unit = (unit_tokens or seq_len) // seq_len
    samples = np.maximum(0, np.asarray(shard_tokens, np.int64) - 1) // seq_len
    return blocks_of(samples, seq_len=seq_len, block=max(1, block_tokens // seq_len // unit) * unit, unit=unit)


def blocks_of(samples: Ints, *, seq_len: int, block: int, unit: int = 1) -> BlockTable:
    """The blocks of `block` samples, and units of `unit`, of shards that have so many samples each."""
    in_blocks = samples // block * block
    in_units = (samples - in_blocks) // unit * unit
    lengths = np.concatenate([in_blocks, in_units, samples - in_blocks - in_units])
    shard_ends = samples.cumsum()
    starts = shard_ends - samples
    piece_starts = np.concatenate([starts, starts + in_blocks, starts + in_blocks + in_units])
    some = lengths > 0
    piece_ends = lengths.cumsum()
    return BlockTable(
        seq_len=seq_len,
        block_samples=block,
        num_blocks=int(in_blocks.sum() + in_units.sum()) // block,
        shard_ends=shard_ends,
        piece_ends=piece_ends[some],
        piece_shifts=(piece_starts - (piece_ends - lengths))[some],
    )
