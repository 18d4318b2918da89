import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order.phases import Phase, phase_step, step_of
from data_pipeline.order.plan import Exhausted, Order, Plan, Source, build_plan
from data_pipeline.order.samples import rows_of_rank, sample_at
from tests.data_pipeline.order.places import places_of

ORDER = Order(seed=34521, shuffle="blocks", window=2, turns=4, lanes=8, block_tokens=16)
SOURCES = (
    Source(name="web", shard_tokens=(900, 700, 333)),
    Source(name="code", shard_tokens=(500, 65)),
    Source(name="math", shard_tokens=(90,)),
)
PHASES = (
    Phase(steps=3, batch_rows=2, seq_len=4, ratios=(1, 0, 0)),
    Phase(steps=7, batch_rows=8, seq_len=4, ratios=(6, 3, 1)),
    Phase(steps=5, batch_rows=8, seq_len=4, ratios=(2, 5, 1)),
    Phase(steps=6, batch_rows=4, seq_len=8, ratios=(2, 5, 1)),
)
shuffles = st.sampled_from(["full", "blocks"])


def read(plan: Plan, steps: range) -> list[tuple[int, int, int, int]]:
    """(seq_len, source, epoch, index) of every row."""
    found = []
    for step in steps:
        phase = plan.phases[phase_step(plan.phases, step).phase]
        rows = plan.rows(step, range(phase.batch_rows))
        columns = (rows.sources.tolist(), rows.epochs.tolist(), rows.indices.tolist())
        found += [(phase.seq_len, *row) for row in zip(*columns, strict=True)]
    return found


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_the_ranks_share_each_global_batch_across_phases_whatever_their_number(shuffle: str) -> None:
    plan = build_plan(order=replace(ORDER, shuffle=shuffle), sources=SOURCES, phases=PHASES)
    for step in range(1, 30):
        batch_rows = PHASES[phase_step(PHASES, step).phase].batch_rows
        whole = plan.rows(step, range(batch_rows))
        for dp in (size for size in (1, 2, 4, 8) if batch_rows % size == 0):
            shares = [plan.rows(step, rows_of_rank(rank, num_ranks=dp, batch_rows=batch_rows)) for rank in range(dp)]
            for name in ("positions", "sources", "epochs", "indices"):
                assert np.array_equal(np.concatenate([getattr(share, name) for share in shares]), getattr(whole, name))


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_a_run_that_resumes_at_any_step_goes_on_as_if_it_had_not_stopped(shuffle: str) -> None:
    whole = read(build_plan(order=replace(ORDER, shuffle=shuffle), sources=SOURCES, phases=PHASES), range(1, 30))
    rows = [0, *itertools.accumulate(PHASES[phase_step(PHASES, step).phase].batch_rows for step in range(1, 30))]
    for step in range(1, 30):
        fresh = build_plan(order=replace(ORDER, shuffle=shuffle), sources=SOURCES, phases=PHASES)
        assert read(fresh, range(step, 30)) == whole[rows[step - 1] :]


@given(num_samples=st.integers(1, 60), rows=st.integers(1, 8), lanes=st.integers(8, 9), step=st.integers(1, 40))
def test_one_source_in_the_full_shuffle_is_read_as_ever(num_samples: int, rows: int, lanes: int, step: int) -> None:
    plan = build_plan(
        order=Order(seed=5, lanes=lanes),
        sources=[Source(name="all", shard_tokens=(num_samples + 1,))],
        phases=[Phase(steps=9, batch_rows=rows, seq_len=1, ratios=(1,))],
    )
    expected = [sample_at(position, num_samples=num_samples, seed=5) for position in range((step - 1) * rows, step * rows)]
    found = plan.rows(step, range(rows))
    assert list(zip(found.epochs.tolist(), found.indices.tolist(), strict=True)) == [(sample.epoch, sample.index) for sample in expected]
    assert found.positions.tolist() == list(range((step - 1) * rows, step * rows))


@settings(max_examples=30)
@given(
    shuffle=shuffles,
    seed=st.integers(0, 2**63 - 1),
    parts=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=4),
    batches=st.lists(st.integers(1, 8), min_size=4, max_size=4),
    lengths=st.lists(st.sampled_from([2, 4, 8]), min_size=4, max_size=4),
)
def test_no_sample_of_an_epoch_is_read_twice(
    shuffle: str, seed: int, parts: list[tuple[int, int, int]], batches: list[int], lengths: list[int]
) -> None:
    """Nor any token, whatever the phases change."""
    shapes = zip(parts, batches, lengths, strict=False)
    phases = [Phase(steps=5, batch_rows=batch, seq_len=length, ratios=part) for part, batch, length in shapes]
    plan = build_plan(order=replace(ORDER, shuffle=shuffle, seed=seed), sources=SOURCES, phases=phases)
    rows = np.array(read(plan, range(1, 27)))
    tokens = [np.empty((4, 0))]
    for seq_len, source in set(map(tuple, rows[:, :2].tolist())):
        epochs, indices = np.repeat(rows[(rows[:, :2] == (seq_len, source)).all(axis=1), 2:], seq_len, axis=0).T
        shards, starts = places_of(indices, plan.sources[source].shard_tokens, seq_len=seq_len)
        tokens.append(
            np.stack([np.full_like(shards, source), epochs, shards, starts + np.tile(np.arange(seq_len), len(starts) // seq_len)])
        )
    assert np.unique(np.concatenate(tokens, axis=1), axis=1).shape[1] == sum(part.shape[1] for part in tokens)


def test_a_phase_with_other_batches_only_goes_on_where_the_last_ended() -> None:
    """Batch-size warmup: the rows are those of a run without it."""
    warm = [Phase(steps=steps, batch_rows=rows, seq_len=4, ratios=(6, 3, 1)) for steps, rows in ((3, 2), (5, 3), (9, 8))]
    for shuffle in ("full", "blocks"):
        order = replace(ORDER, shuffle=shuffle)
        plain = build_plan(order=order, sources=SOURCES, phases=warm[-1:])
        expected = read(plain, range(1, 11))
        assert read(build_plan(order=order, sources=SOURCES, phases=warm), range(1, 18))[:80] == expected


def test_what_is_read_never_depends_on_phases_to_come() -> None:
    for number in range(1, len(PHASES)):
        begun = PHASES[:number]
        steps = range(1, sum(phase.steps for phase in begun) + 1)
        order = replace(ORDER, shuffle="full")
        short, whole = (build_plan(order=order, sources=SOURCES, phases=phases) for phases in (begun, PHASES))
        assert read(short, steps) == read(whole, steps)
        assert short.digest(steps[-1]) == whole.digest(steps[-1])
        assert short.digest(steps[-1] + 1) != whole.digest(steps[-1] + 1)


def test_the_digest_tells_whatever_changes_the_order() -> None:
    def digest(order: Order = ORDER, sources: tuple[Source, ...] = SOURCES, phases: tuple[Phase, ...] = PHASES) -> str:
        return build_plan(order=order, sources=sources, phases=phases).digest(12)

    orders = [replace(ORDER, **change) for change in ({"seed": 1}, {"shuffle": "full"}, {"window": 3}, {"turns": 5}, {"lanes": 9})]
    moved = (replace(SOURCES[0], shard_tokens=(900, 333, 700)), *SOURCES[1:])
    phases = [
        (replace(PHASES[0], **change), *PHASES[1:]) for change in ({"steps": 7}, {"batch_rows": 4}, {"ratios": (0, 1, 0)}, {"seq_len": 2})
    ]
    digests = [digest(), digest(sources=moved), *(digest(order) for order in orders), *(digest(phases=changed) for changed in phases)]
    assert len(set(digests)) == len(digests)
    assert digest() == digest(sources=(replace(SOURCES[0], name="other", max_epochs=50), *SOURCES[1:]))


def test_a_source_ends_at_its_cap_and_the_others_take_its_rows() -> None:
    sources = (SOURCES[0], SOURCES[1], replace(SOURCES[2], max_epochs=2))  # 22 samples of 4 tokens
    plan = build_plan(order=ORDER, sources=sources, phases=[Phase(steps=9, batch_rows=8, seq_len=4, ratios=(6, 3, 1))])
    rows = read(plan, range(1, 201))
    math = [(epoch, index) for _, source, epoch, index in rows if source == 2]
    assert {epoch for epoch, _ in math} == {0, 1}
    assert len(math) == len(set(math)) >= 44 - 2 * 8
    late = Counter(source for _, source, _, _ in rows[-800:])
    assert late.keys() == {0, 1}
    assert abs(late[0] - 800 * 6 / 9) < 800 / 32
    assert plan.exhausted_at is None


def test_when_every_source_has_reached_its_cap_the_step_is_told() -> None:
    sources = [replace(source, max_epochs=1) for source in SOURCES]
    plan = build_plan(order=ORDER, sources=sources, phases=[Phase(steps=9, batch_rows=8, seq_len=4, ratios=(6, 3, 1))])
    samples = sum(plan.table(source, 4).num_samples for source in range(3))
    assert plan.exhausted_at is not None
    last = plan.exhausted_at - 1
    assert samples - last * 8 < 3 * 8 + 4 * 8
    assert max(Counter(read(plan, range(1, last + 1))).values()) == 1
    for step in (last + 1, last + 2):
        with pytest.raises(Exhausted, match=f"^step {last + 1}: every source has reached its max_epochs; end the run before it") as error:
            plan.rows(step, range(8))
        assert error.value.step == last + 1


@pytest.mark.parametrize("shuffle", ["full", "blocks"])
def test_what_a_run_consumed_is_what_its_rows_were(shuffle: str) -> None:
    sources = (*SOURCES[:2], replace(SOURCES[2], max_epochs=3))
    plan = build_plan(order=replace(ORDER, shuffle=shuffle), sources=sources, phases=PHASES)
    for step in (0, 1, 3, 5, 9, 10, 11, 15, 17, 21, 60, 150):
        rows = read(plan, range(1, step + 1))
        for source, consumed in enumerate(plan.consumed(step)):
            own = [(seq_len, epoch) for seq_len, its_source, epoch, _ in rows if its_source == source]
            assert consumed.samples == len(own)
            assert consumed.tokens == sum(seq_len for seq_len, _ in own)
            assert consumed.repeated == sum(epoch > 0 for _, epoch in own)
            assert consumed.epochs == max((epoch + 1 for _, epoch in own), default=0)


def test_each_phase_has_its_mixture_exactly() -> None:
    plan = build_plan(order=ORDER, sources=SOURCES, phases=[replace(PHASES[1], steps=8), PHASES[2]])
    first, second = (Counter(source for _, source, _, _ in read(plan, steps)) for steps in (range(1, 9), range(9, 13)))
    assert first == {0: 38, 1: 19, 2: 7}  # twice 32 by 6 : 3 : 1
    assert second == {0: 8, 1: 20, 2: 4}


@pytest.mark.parametrize("rows", [1, 8, 16])
def test_a_source_of_one_row_in_many_windows_is_read_as_often_as_its_ratio_says(rows: int) -> None:
    """A window has 64 batches."""
    plan = build_plan(
        order=Order(seed=1, lanes=rows),
        sources=[Source(name="web", shard_tokens=(10**9,)), Source(name="rare", shard_tokens=(1000,))],
        phases=[Phase(steps=1, batch_rows=rows, seq_len=1, ratios=(99_999, 1))],
    )
    for num_rows in (100_000, 1_000_000, 20_000_000, 4 * 10**9):
        read = plan.consumed(num_rows // rows)[1].samples
        assert abs(read - num_rows / 100_000) < 4


def test_a_mixture_comes_to_its_end_whatever_its_ratios_and_caps() -> None:
    for ratios in ((99_999, 1, 1), (1, 99_999, 1), (1, 1, 99_999), (331, 17, 3)):
        sources = [replace(source, max_epochs=1) for source in SOURCES]
        plan = build_plan(order=ORDER, sources=sources, phases=[Phase(steps=9, batch_rows=8, seq_len=4, ratios=ratios)])
        assert plan.exhausted_at is not None
        rows = read(plan, range(1, plan.exhausted_at))
        assert len(rows) == len(set(rows)) > sum(plan.table(source, 4).num_samples for source in range(3)) - 7 * 8


def test_steps_have_their_phase_and_positions_their_step() -> None:
    found = [(at.phase, at.step, at.position) for at in (phase_step(PHASES, step) for step in (1, 3, 4, 10, 11, 16, 40))]
    assert found == [(0, 1, 0), (0, 3, 4), (1, 1, 6), (1, 7, 54), (2, 1, 62), (3, 1, 102), (3, 25, 198)]
    for step in range(1, 40):
        assert step_of(PHASES, phase_step(PHASES, step).position) == step == step_of(PHASES, phase_step(PHASES, step + 1).position - 1)
    with pytest.raises(ValueError, match="first step is 1"):
        phase_step(PHASES, 0)


def test_what_cannot_be_planned_is_told_in_one_line_with_the_remedy() -> None:
    def plan(order: Order = ORDER, sources: tuple[Source, ...] = SOURCES, **change: object) -> None:
        build_plan(order=order, sources=sources, phases=[PHASES[0], replace(PHASES[1], **change)])

    for change, message in (
        ({"ratios": (1, 2)}, r"phase 2: ratios=\(1, 2\): give each of 3 sources a ratio"),
        ({"ratios": (0, 0, 0)}, r"phase 2: ratios="),
        ({"ratios": (10**6, 1, 1)}, r"phase 2: source code would get none of 262,144 rows; raise its ratio, or leave it out"),
        ({"batch_rows": 9}, r"phase 2: batch_rows=9 is more than lanes=8; use as many lanes"),
        ({"steps": 0}, r"phase 2: steps=0.*: use 1 or more"),
        ({"seq_len": 6}, r"phase 1: seq_len=4 does not divide 6, the longest; change it or use shuffle=full"),
        ({"seq_len": 400}, r"source math: no shard has 401 tokens for a row; use a smaller seq_len"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            plan(**change)
    with pytest.raises(ValueError, match=r"^shuffle='block': use full or blocks"):
        plan(order=replace(ORDER, shuffle="block"))
    with pytest.raises(ValueError, match=r"^source web: max_epochs=0: use 1 or more, or a ratio of 0"):
        plan(sources=(replace(SOURCES[0], max_epochs=0), *SOURCES[1:]))
    with pytest.raises(ValueError, match=r"^rows=range\(0, 9\): not rows of a batch of 8"):
        build_plan(order=ORDER, sources=SOURCES, phases=PHASES).rows(4, range(9))


@pytest.mark.parametrize(
    ("shuffle", "samples", "digest"), [("full", "3593edf7135bc230", "8888488ce2af1d83"), ("blocks", "b2f32ad812400559", "1da46dca1656c7cf")]
)
def test_the_order_of_one_dataset_never_changes_between_versions(shuffle: str, samples: str, digest: str) -> None:
    """Many rows at once and few, a window's border, what does not go round at an epoch's end, and the epoch after it."""
    plan = build_plan(
        order=Order(seed=34521, shuffle=shuffle, window=4, lanes=3000, block_tokens=64),
        sources=[Source(name="all", shard_tokens=[400_000 + 7919 * (number % 13) for number in range(40)])],
        phases=[Phase(steps=1, batch_rows=3000, seq_len=4, ratios=(1,))],
    )
    hashed = hashlib.sha256()
    for step, rows in ((1, range(3000)), (64, range(7, 3000)), (65, range(3)), (1480, range(3000)), (1488, range(3000)), (1500, range(1))):
        found = plan.rows(step, rows)
        hashed.update(np.stack([found.positions, found.sources, found.epochs, found.indices]).astype("<i8").tobytes())
    assert (hashed.hexdigest()[:16], plan.digest(5)[:16]) == (samples, digest)


def test_the_order_of_a_plan_never_changes_between_versions() -> None:
    """Whoever changes it on purpose counts VERSION up."""
    plan = build_plan(order=ORDER, sources=SOURCES, phases=PHASES)
    assert read(plan, range(17, 18)) == [(8, 1, 0, 23), (8, 1, 0, 4), (8, 1, 0, 28), (8, 2, 2, 2)]
    assert hashlib.sha256(repr(read(plan, range(1, 41))).encode()).hexdigest()[:16] == "4f2fdc895be89cab"
    assert plan.digest(12) == "a5988edaf56a653f4b0e704997d984c14109415a9b518c915826fd672655d53e"
