"""6 T tokens in 12,000 files, read in batches of 16,384 rows by as many ranks: what the order costs a rank and a node. Without data."""

import tracemalloc
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import pytest

from data_pipeline.config import SHUFFLE_WINDOW
from data_pipeline.order.blocks import BLOCK_TOKENS
from data_pipeline.order.phases import Phase
from data_pipeline.order.plan import Order, Plan, Source, build_plan
from data_pipeline.order.samples import rows_of_rank
from tests.data_pipeline.order.places import places_of

NUM_RANKS = 16_384
SEQ_LEN = 8192
ROWS_OF_NODE = 8
BLOCK_SAMPLES = BLOCK_TOKENS // SEQ_LEN
STEPS_OF_WINDOW = SHUFFLE_WINDOW * BLOCK_SAMPLES
"""Of a source that every row reads."""
RATIOS = {"one": (1,), "mixture": (6, 3, 1)}
FILES = {"one": ((12_000, 6e12),), "mixture": ((9600, 48e11), (1800, 9e11), (600, 3e11))}
"""Of each source: how many, and the tokens in all."""


def plan_of(corpus: str) -> Plan:
    sources = [Source(name=f"{number}", shard_tokens=sizes(*files, seed=number)) for number, files in enumerate(FILES[corpus])]
    phase = Phase(steps=10**6, batch_rows=NUM_RANKS, seq_len=SEQ_LEN, ratios=RATIOS[corpus])
    return build_plan(order=Order(seed=34521, shuffle="blocks", window=SHUFFLE_WINDOW, lanes=NUM_RANKS), sources=sources, phases=[phase])


def sizes(num_files: int, num_tokens: float, *, seed: int) -> list[int]:
    """The largest is about twice the smallest."""
    parts = np.random.default_rng(seed).uniform(2, 4, num_files)
    return (parts * num_tokens / parts.sum()).astype(np.int64).tolist()


def steps_around(plan: Plan, source: int) -> dict[str, int]:
    """Where something happens to a source: the beginning, its first windows' border, and the end of its epoch."""
    share = plan.phases[0].ratios[source] / sum(plan.phases[0].ratios)
    samples = plan.table(source, SEQ_LEN).num_samples
    return {"first": 8, "border": round(STEPS_OF_WINDOW / share), "end": round(samples / share / NUM_RANKS)}


@pytest.mark.parametrize("corpus", FILES)
def test_a_rank_holds_less_than_100_mb_of_the_plan(corpus: str) -> None:
    tracemalloc.start()
    try:
        plan = plan_of(corpus)
        for step in (1, 40_000, 10**6):
            plan.rows(step, rows_of_rank(77, num_ranks=NUM_RANKS, batch_rows=NUM_RANKS))
        plan.rows(1, range(NUM_RANKS))
        assert tracemalloc.get_traced_memory()[1] < 100 * 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("corpus", "source"), [("one", 0), ("mixture", 0), ("mixture", 2)])
def test_no_two_ranks_share_a_sample_at_the_beginning_a_windows_border_or_an_epochs_end(corpus: str, source: int) -> None:
    plan = plan_of(corpus)
    steps = [step for around in steps_around(plan, source).values() for step in range(around - 7, around + 8)]
    rows = [plan.rows(step, range(NUM_RANKS)) for step in steps]
    read = np.stack([np.concatenate([getattr(part, name) for part in rows]) for name in ("sources", "epochs", "indices")])
    assert {0, 1} == set(read[1, read[0] == source].tolist()), "the epoch's end is among them"
    assert len(np.unique(np.ravel_multi_index(tuple(read), (len(plan.sources), 10, 10**9)))) == len(steps) * NUM_RANKS


@pytest.mark.parametrize("corpus", FILES)
def test_a_rank_that_resumes_reads_its_row_of_the_global_batch(corpus: str) -> None:
    """Each has a plan of its own, and tells many of its steps at once."""
    whole = plan_of(corpus)
    for rank, step in enumerate((1, 2, 2048, 2049, STEPS_OF_WINDOW, STEPS_OF_WINDOW + 1, *steps_around(whole, 0).values(), 250_000)):
        its = plan_of(corpus).rows(step, rows_of_rank(1638 * rank, num_ranks=NUM_RANKS, batch_rows=NUM_RANKS))
        batch = whole.rows(step, range(NUM_RANKS))
        for name in ("positions", "sources", "epochs", "indices"):
            assert getattr(its, name).tolist() == [getattr(batch, name)[1638 * rank]]


def amplification(plan: Plan, node: int, steps: Iterable[int], *, num_blocks: int) -> float:
    """Samples that a node fetches, by whole blocks into a cache of so many that the least recently used leaves first, for each one used."""
    rows = range(node * ROWS_OF_NODE, (node + 1) * ROWS_OF_NODE)
    found = [plan.rows(step, rows) for step in steps]
    sources, indices = (np.concatenate([getattr(part, name) for part in found]) for name in ("sources", "indices"))
    blocks = np.empty((3, len(sources)), np.int64)
    for source in range(len(plan.sources)):
        chosen = sources == source
        shards, starts = places_of(indices[chosen], plan.sources[source].shard_tokens, seq_len=SEQ_LEN)
        blocks[:, chosen] = np.full_like(shards, source), shards, starts // BLOCK_TOKENS
    cache: OrderedDict[tuple[int, ...], None] = OrderedDict()
    num_fetched = 0
    for block in zip(*blocks.tolist(), strict=True):
        num_fetched += block not in cache
        cache[block] = None
        cache.move_to_end(block)
        if len(cache) > num_blocks:
            cache.popitem(last=False)
    return num_fetched * BLOCK_SAMPLES / len(sources)


@pytest.mark.parametrize("node", [0, 1234, 2047])
def test_a_node_that_keeps_a_window_for_each_row_fetches_what_it_uses_and_hardly_more(node: int) -> None:
    """A block that is made up of the ends of several files is kept as several: where a node has one, it wants a little more room."""
    plan, steps, num_blocks = plan_of("one"), range(1, 2 * STEPS_OF_WINDOW + 1), SHUFFLE_WINDOW * ROWS_OF_NODE
    assert amplification(plan, node, steps, num_blocks=num_blocks) < 2
    assert amplification(plan, node, steps, num_blocks=num_blocks + ROWS_OF_NODE) < 1.01


def test_what_does_not_go_round_at_an_epochs_end_costs_a_block_for_each_sample_and_hardly_shows() -> None:
    """The last few hundred steps of 44,700: all of an epoch's other windows cost nothing."""
    plan = plan_of("one")
    end, last = plan.table(0, SEQ_LEN).num_samples // NUM_RANKS, 2 * STEPS_OF_WINDOW
    assert amplification(plan, 5, range(end - last, end), num_blocks=SHUFFLE_WINDOW * ROWS_OF_NODE) * last / end < 0.5


def test_of_a_mixture_a_node_keeps_a_window_for_each_row_and_source() -> None:
    """With fewer, blocks of a rare source are gone before they are used up. Windows that are begun at the end have been fetched whole."""
    plan, steps = plan_of("mixture"), range(1, 5 * STEPS_OF_WINDOW + 1)
    assert amplification(plan, 5, steps, num_blocks=3 * SHUFFLE_WINDOW * ROWS_OF_NODE) < 1.5
    assert amplification(plan, 5, range(1, 1000), num_blocks=SHUFFLE_WINDOW * ROWS_OF_NODE) > 10
