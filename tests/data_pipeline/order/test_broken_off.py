"""What a change of seq_len leaves unread is what nobody reads."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order.broken_off import BrokenOff, broken_off
from data_pipeline.order.phases import Phase
from data_pipeline.order.plan import Order, Plan, Source, build_plan

ORDER = Order(seed=3, shuffle="blocks", window=2, turns=4, lanes=8, block_tokens=64)
ONE = Source(name="one", shard_tokens=(2**16 + 1,), max_epochs=1)


def plan_of(*phases: Phase, order: Order = ORDER, source: Source = ONE) -> Plan:
    return build_plan(order=order, sources=[source], phases=phases)


def phase(steps: int, seq_len: int, rows: int = 8) -> Phase:
    return Phase(steps=steps, batch_rows=rows, seq_len=seq_len, ratios=(1,))


@settings(max_examples=30)
@given(steps=st.integers(1, 250), rows=st.integers(1, 8), window=st.integers(1, 200), shuffle=st.sampled_from(["full", "blocks"]))
def test_all_that_a_capped_source_has_is_read_or_told(steps: int, rows: int, window: int, shuffle: str) -> None:
    """To less than a row for each lane, which nobody reads either at a source's end."""
    plan = plan_of(phase(steps, 4, rows), phase(1, 16), order=replace(ORDER, window=window, shuffle=shuffle))
    told = sum(one.tokens for one in broken_off(plan, 10**6))
    read = plan.consumed(plan.exhausted_at - 1)[0].tokens
    assert 0 <= 2**16 - read - told < 8 * 16


def test_a_source_that_goes_on_at_its_next_window_or_epoch_says_so() -> None:
    def found(plan: Plan) -> BrokenOff:
        (one,) = broken_off(plan, 1000)
        return one

    near = found(plan_of(phase(5, 4), phase(1, 16)))
    assert (near.step, near.tokens, near.next_epoch, near.is_over) == (6, 8 * 2 * 64 - 5 * 32, None, False)
    large = replace(ORDER, window=2**10)
    assert found(plan_of(phase(5, 4), phase(1, 16), order=large)).is_over
    again = found(plan_of(phase(5, 4), phase(1, 16), order=large, source=replace(ONE, max_epochs=None)))
    assert (again.next_epoch, again.is_over) == (2, False)


def test_where_nothing_is_lost_nothing_is_told() -> None:
    window = 8 * 2 * 64 // (8 * 4)
    for phases in (
        (phase(5, 4), phase(9, 4, rows=4)),
        (phase(window, 4), phase(1, 16)),
        (phase(5, 4), replace(phase(1, 16), ratios=(0, 1))),
    ):
        sources = [ONE, replace(ONE, name="other")]
        plan = build_plan(
            order=ORDER, sources=sources, phases=[replace(one, ratios=one.ratios if len(one.ratios) > 1 else (1, 0)) for one in phases]
        )
        assert list(broken_off(plan, 1000)) == []
    assert list(broken_off(plan_of(phase(5, 4), phase(1, 16)), 5)) == [], "which ends before"


def test_a_source_that_its_cap_ended_before_is_not_told_of() -> None:
    sources = [ONE, replace(ONE, name="large", shard_tokens=(2**20 + 1,), max_epochs=None)]
    plan = build_plan(order=ORDER, sources=sources, phases=[replace(phase(6000, 4), ratios=(1, 1)), replace(phase(1, 16), ratios=(1, 1))])
    assert plan.capped_at(0) < 6000
    assert [one.source for one in broken_off(plan, 10**6)] == [1]
    assert np.sum([one.tokens for one in broken_off(plan, 10**6)]) < 8 * 2 * 64 + 4 * 32
