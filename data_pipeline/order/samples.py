"""Which samples a step trains on: a pure function of seed, step and batch size, the same for every world size. No state, no file, O(1).

The stream of samples has positions 0, 1, 2, … without an end. An epoch is one pass over all samples of the dataset, in an order of its own.
Steps are 1-based: row r of step n is the sample at position (n - 1) * batch_rows + r. This module is the only place of that arithmetic.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_pipeline.order.permutation import mix, permute


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample as it is trained on in one epoch."""

    epoch: int
    """How often the whole dataset was read before."""
    index: int
    """Number of the sample in the dataset, in [0, num_samples)."""


def samples_of_step(step: int, *, batch_rows: int, num_samples: int, seed: int) -> tuple[SampleRef, ...]:
    """The samples of all rows of the global batch of `step` (the first is 1)."""
    return samples_of_rows(range(batch_rows), step, batch_rows=batch_rows, num_samples=num_samples, seed=seed)


def samples_of_rows(rows: range, step: int, *, batch_rows: int, num_samples: int, seed: int) -> tuple[SampleRef, ...]:
    """The samples of `rows`, some of the `batch_rows` rows of the global batch of `step` (the first is 1)."""
    first = first_position(step, batch_rows=batch_rows)
    return tuple(sample_at(first + row, num_samples=num_samples, seed=seed) for row in rows)


def rows_of_rank(rank: int, *, num_ranks: int, batch_rows: int) -> range:
    """The rows of the global batch that belong to `rank` of `num_ranks` data-parallel ranks; `num_ranks` must divide `batch_rows`."""
    rows = batch_rows // num_ranks
    return range(rank * rows, (rank + 1) * rows)


def first_position(step: int, *, batch_rows: int) -> int:
    """The position in the stream of the first sample of `step` (the first is 1)."""
    if step < 1:
        raise ValueError(f"step={step}: the first step is 1")
    return (step - 1) * batch_rows


def sample_at(position: int, *, num_samples: int, seed: int) -> SampleRef:
    """The sample at one position of the stream."""
    epoch, offset = epoch_and_offset(position, num_samples=num_samples)
    return SampleRef(epoch, permute(offset, num_samples=num_samples, key=mix(seed, epoch)))


def epoch_and_offset(position: int, *, num_samples: int) -> tuple[int, int]:
    """(the epoch that a position of the stream lies in, how many samples of that epoch come before it)."""
    return divmod(position, num_samples)


def digest_of(samples: Iterable[SampleRef]) -> str:
    """SHA-256, in hex, over epoch and index of every sample, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(struct.pack("<QQ", sample.epoch, sample.index))
    return digest.hexdigest()


def sample_sums(rows: Iterable[tuple[int, SampleRef]]) -> tuple[int, int, int, int]:
    """Sums over rows, given as (position in the stream, sample), of the four 32-bit parts of a hash of each row.

    Those of two sets of rows add up to those of both, so ranks need no order to make the digest of a step; see `digest_of_sums`.
    A part stays below 2^32 times the number of rows: up to 2^20 rows, float64 adds them without error.
    """
    totals = [0, 0, 0, 0]
    for position, sample in rows:
        hashed = hashlib.sha256(struct.pack("<QQQ", position, sample.epoch, sample.index)).digest()
        totals = [total + part for total, part in zip(totals, struct.unpack("<4I", hashed[:16]), strict=True)]
    return totals[0], totals[1], totals[2], totals[3]


def digest_of_sums(sums: Sequence[int]) -> str:
    """The digest of all rows that `sums` were summed over: "sum:" and a number modulo 2^128 in hex."""
    total = sum(part << 32 * place for place, part in enumerate(sums)) % 2**128
    return f"sum:{total:032x}"
