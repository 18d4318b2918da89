"""What a sample is, and which tokens it consists of. Pure.

A sample is T + 1 consecutive tokens of one shard: T inputs, and as the label of each the token after it. Samples of a shard start every
T tokens: the last label of one is the first input of the next. No sample crosses shards: a shard of n tokens holds (n - 1) // T samples,
and up to T tokens at its end stay unused.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol


class TokenRange(NamedTuple):
    """Consecutive tokens of one shard."""

    shard: int
    """Index of the shard in its dataset."""
    start: int
    """The first token, counted from the beginning of the shard."""
    length: int
    """How many tokens there are."""


class RowTable(Protocol):
    """Says where the tokens of rows are: `SampleTable`, or one of packed rows."""

    @property
    def seq_len(self) -> int:
        """T: input tokens of a row."""

    @property
    def num_samples(self) -> int:
        """Rows of the whole dataset."""

    def shard_of(self, index: int) -> int:
        """The shard that a row lies in."""

    def ranges(self, index: int) -> list[TokenRange]:
        """The tokens of a row, up to T + 1, in the order of their shard; what is left of it is padding. May read, and raise DataError."""

    def around(self, index: int) -> TokenRange:
        """The tokens of what is read with it at once. As `ranges`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleTable:
    """Finds the tokens of a sample by the sample's index, in O(log shards)."""

    seq_len: int
    """T: input tokens of a sample."""
    ends: tuple[int, ...]
    """For each shard, the number of samples in it and in all shards before it."""
    block_samples: int = 1
    """Samples that are read at once, those after each other in a shard."""

    @property
    def num_samples(self) -> int:
        """Samples of the whole dataset."""
        return self.ends[-1] if self.ends else 0

    def locate(self, index: int) -> TokenRange:
        """The T + 1 tokens of the sample `index`, in [0, num_samples)."""
        shard, number = self.place(index)
        return TokenRange(shard=shard, start=number * self.seq_len, length=self.seq_len + 1)

    def shard_of(self, index: int) -> int:
        """The shard that the sample `index` lies in."""
        return self.place(index)[0]

    def ranges(self, index: int) -> list[TokenRange]:
        """What the sample `index` consists of: its tokens follow each other."""
        return [self.locate(index)]

    def around(self, index: int) -> TokenRange:
        """The tokens of all samples of its block."""
        shard, number = self.place(index)
        first = number // self.block_samples * self.block_samples
        last = min(first + self.block_samples, self.ends[shard] - (self.ends[shard - 1] if shard else 0))
        return TokenRange(shard=shard, start=first * self.seq_len, length=(last - first) * self.seq_len + 1)

    def place(self, index: int) -> tuple[int, int]:
        """The shard of the sample `index`, and how many samples of that come before it."""
        shard = bisect_right(self.ends, index)
        return shard, index - (self.ends[shard - 1] if shard else 0)


def cut_samples(shard_tokens: Iterable[int], *, seq_len: int) -> SampleTable:
    """The samples of shards of so many tokens each."""
    return SampleTable(seq_len=seq_len, ends=tuple(accumulate(max(0, num_tokens - 1) // seq_len for num_tokens in shard_tokens)))
