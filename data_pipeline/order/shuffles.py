"""Two ways to order the samples of one source, epoch by epoch: each a permutation of every epoch, in O(1) per sample. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_pipeline.order.blocks import BlockTable
from data_pipeline.order.permutation import mix
from data_pipeline.order.vectors import Ints, Words, mix_many, permute_many


class Shuffle(Protocol):
    """The order of one source's samples, cut for one length of them."""

    @property
    def table(self) -> BlockTable:
        """The samples of an epoch."""

    def samples(self, offsets: Ints, epochs: Ints, *, seed: int) -> Ints:
        """The samples that come at offsets in [0, num_samples) of epochs, as indices in the dataset."""

    def left_at(self, position: int) -> tuple[int, int]:
        """(epoch, windows of it) behind which nothing was taken yet, where everything taken lies before `position` of the stream."""

    def position_of(self, epoch: int, window: int) -> int:
        """Where a window of an epoch begins in the stream, whatever the length of samples was before."""


@dataclass(frozen=True, slots=True, eq=False)
class FullShuffle:
    """All samples permuted: what `samples.sample_at` gives. An epoch is one window: with other samples another epoch begins."""

    table: BlockTable

    def samples(self, offsets: Ints, epochs: Ints, *, seed: int) -> Ints:
        return permute_many(offsets, num_samples=self.table.num_samples, keys=_keys(seed, epochs))

    def left_at(self, position: int) -> tuple[int, int]:
        return -(-position // self.table.num_samples), 0

    def position_of(self, epoch: int, window: int) -> int:
        return epoch * self.table.num_samples


@dataclass(frozen=True, slots=True, eq=False)
class BlockShuffle:
    """Blocks permuted and dealt to L lanes in turn; and within each window of W blocks, a lane's samples permuted.

    Offset o of an epoch is turn o // L of lane o % L. The blocks that don't go round, fewer than L, and the tail come last, all their
    samples permuted. Whoever reads a lane reads its blocks whole, at most W at a time.
    """

    table: BlockTable
    lanes: int
    """L."""
    window: int
    """W: blocks of a lane's window."""
    is_any_length: bool = True
    """Whether samples of every length have these blocks; else, with other samples another epoch begins, as in the full shuffle."""

    @property
    def blocks_each(self) -> int:
        """Blocks that every lane has of an epoch."""
        return self.table.num_blocks // self.lanes

    @property
    def num_dealt(self) -> int:
        """Samples of an epoch that lie in lanes."""
        return self.blocks_each * self.lanes * self.table.block_samples

    def samples(self, offsets: Ints, epochs: Ints, *, seed: int) -> Ints:
        places = _either(offsets < self.num_dealt, self._dealt, self._last, offsets, _keys(seed, epochs))
        return self.table.index_of(places)

    def left_at(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.table.num_samples)
        if not self.is_any_length:
            return epoch + (offset > 0), 0
        windows = -(-offset // (self.window * self.table.block_samples * self.lanes))
        return (epoch + 1, 0) if windows and windows * self.window >= self.blocks_each else (epoch, windows)

    def position_of(self, epoch: int, window: int) -> int:
        return epoch * self.table.num_samples + window * self.window * self.table.block_samples * self.lanes

    def _dealt(self, offsets: Ints, keys: Words) -> Ints:
        size = self.table.block_samples
        turns, lanes = np.divmod(offsets, self.lanes)
        windows, turns = np.divmod(turns, self.window * size)
        window_keys = mix_many(mix_many(keys, lanes), windows)
        last, rest = divmod(self.blocks_each, self.window)

        def permuted(blocks: int) -> Callable[..., Ints]:
            return lambda turns, keys: permute_many(turns, num_samples=blocks * size, keys=keys)

        turns = _either(windows < last, permuted(self.window), permuted(rest), turns, window_keys)
        slots, within = np.divmod(turns, size)
        return self._block((windows * self.window + slots) * self.lanes + lanes, keys) * size + within

    def _last(self, offsets: Ints, keys: Words) -> Ints:
        """Behind the windows of all lanes: `lanes` is no lane, so this key is no window's."""
        size, first = self.table.block_samples, self.num_dealt
        places = first + permute_many(offsets - first, num_samples=self.table.num_samples - first, keys=mix_many(keys, self.lanes))

        def in_block(places: Ints, keys: Words) -> Ints:
            numbers, within = np.divmod(places, size)
            return self._block(numbers, keys) * size + within

        return _either(places < self.table.num_blocks * size, in_block, lambda places, _: places, places, keys)

    def _block(self, numbers: Ints, keys: Words) -> Ints:
        return permute_many(numbers, num_samples=self.table.num_blocks, keys=keys)


def _keys(seed: int, epochs: Ints) -> Words:
    """One for all where they share an epoch, which is quicker."""
    if len(epochs) and epochs.min() == epochs.max():
        return np.array([mix(seed, int(epochs[0]))], np.uint64)
    return mix_many(seed, epochs)


def _either(chosen: NDArray[np.bool_], yes: Callable[..., Ints], no: Callable[..., Ints], values: Ints, keys: Words) -> Ints:
    """`yes` of what is chosen, `no` of the others; without taking apart what need not be."""
    if chosen.all():
        return yes(values, keys)
    found = np.empty_like(values)
    for part, function in ((chosen, yes), (~chosen, no)):
        if part.any():
            found[part] = function(values[part], keys if len(keys) == 1 else keys[part])
    return found
