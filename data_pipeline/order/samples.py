"""Which samples a step trains on: a pure function of seed, step and batch size, the same for every world size. No state, no file, O(1).

The stream of samples has positions 0, 1, 2, … without an end. An epoch is one pass over all samples of the dataset, in an order of its own.
Steps are 1-based: row r of step n is the sample at position (n - 1) * batch_rows + r, as long as batches stay as large.

What runs read is told by `plan.py`; this is the definition of its full shuffle, a sample at a time, and the digests of samples and tokens.
"""

import functools
import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data_pipeline.order.permutation import mix, permute

Sums = tuple[int, int, int, int]
"""What `sample_sums` gives: the lowest 32 bits of all hashes summed, then the next higher ones, and so on."""
_key_of_epoch = functools.lru_cache(maxsize=4)(mix)
"""Many samples in turn share an epoch."""
_SUM = "sum:"
_PACKED, _SOURCE = struct.Struct("<QQQ"), struct.Struct("<Q")
_parts = struct.Struct("<4I").unpack
_HASH = functools.partial(hashlib.blake2b, digest_size=16, person=b"braid samples")


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample as it is trained on in one epoch."""

    epoch: int
    """How often the whole dataset was read before."""
    index: int
    """Number of the sample in the dataset, in [0, num_samples)."""
    source: int = 0
    """Number of the dataset, of those that are trained on."""


def rows_of_rank(rank: int, *, num_ranks: int, batch_rows: int) -> range:
    """The rows of the global batch that belong to `rank` of `num_ranks` data-parallel ranks; `num_ranks` must divide `batch_rows`."""
    rows = batch_rows // num_ranks
    return range(rank * rows, (rank + 1) * rows)


def sample_at(position: int, *, num_samples: int, seed: int) -> SampleRef:
    """The sample at one position of the stream."""
    epoch, offset = epoch_and_offset(position, num_samples=num_samples)
    return SampleRef(epoch, permute(offset, num_samples=num_samples, key=_key_of_epoch(seed, epoch)))


def epoch_and_offset(position: int, *, num_samples: int) -> tuple[int, int]:
    """(the epoch that a position of the stream lies in, how many samples of that epoch come before it)."""
    return divmod(position, num_samples)


def sample_sums(rows: Iterable[tuple[int, SampleRef]]) -> Sums:
    """What says which samples were read where: each row, (position in the stream, sample), has a hash of 128 bits, and these are summed.

    The sums of ranks that read different rows of a step add up to the sums of the step, in any order. Each is below 2^32 times the number
    of rows, so that float64 holds those of up to 2^20 rows exactly.
    """
    hashes = [_HASH(_packed(position, sample)).digest() for position, sample in rows]
    first, second, third, fourth = (sum(parts) for parts in zip(*map(_parts, hashes), strict=True)) if hashes else (0, 0, 0, 0)
    return first, second, third, fourth


def _packed(position: int, sample: SampleRef) -> bytes:
    """The first dataset is left out, so that one alone has the sums that it had when there could be no other."""
    whole = _PACKED.pack(position, sample.epoch, sample.index)
    return whole + _SOURCE.pack(sample.source) if sample.source else whole


def digest_of_sums(sums: Sequence[int]) -> str:
    """The digest that the ledger keeps of a step's `sample_sums`: the sum of its hashes modulo 2^128, "sum:" and 32 hex digits."""
    whole = sum(part << 32 * number for number, part in enumerate(sums))
    return f"{_SUM}{whole % 2**128:032x}"


def token_sums(rows: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """What says which tokens were read where: each row, (position in the stream, hash of its tokens), has a hash of 64 bits; sums of their
    lower and their higher halves. Ranks add them up as they do `sample_sums`.
    """
    hashes = [mix(position, tokens) for position, tokens in rows]
    return sum(one & 0xFFFFFFFF for one in hashes), sum(one >> 32 for one in hashes)


def digest_of_token_sums(sums: Sequence[int]) -> str:
    """The digest that the ledger keeps of a step's `token_sums`: the sum of its hashes modulo 2^64, in 16 hex digits."""
    low, high = sums
    return f"{(low + (high << 32)) % 2**64:016x}"


def digest_of(samples: Iterable[SampleRef]) -> str:
    """SHA-256, in hex, over epoch and index of every sample, in order: what ledgers of earlier versions hold."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(struct.pack("<QQ", sample.epoch, sample.index))
    return digest.hexdigest()


def is_sum(digest: str) -> bool:
    """Whether a digest is one of `digest_of_sums`."""
    return digest.startswith(_SUM)
