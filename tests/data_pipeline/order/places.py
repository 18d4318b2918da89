"""Where samples lie, for who looks at many of them."""

from collections.abc import Iterable, Sequence

import numpy as np

from data_pipeline.order.sample_table import cut_samples
from data_pipeline.order.vectors import Ints


def places_of(indices: Iterable[int], shard_tokens: Sequence[int], *, seq_len: int) -> tuple[Ints, Ints]:
    """(shard, its first token) of samples of shards of so many tokens."""
    table = cut_samples(shard_tokens, seq_len=seq_len)
    found = [table.locate(index) for index in np.asarray(indices).tolist()]
    return np.array([place.shard for place in found], np.int64), np.array([place.start for place in found], np.int64)
