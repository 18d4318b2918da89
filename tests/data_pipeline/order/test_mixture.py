import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.order.mixture import MOST_RESIDUES, Segment, build_segment, num_windows_within, split_slots, windows_of_round

ratios = st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any)


def segment_of(parts: list[int], *, lanes: int, turns: int, start: int = 0) -> Segment:
    windows = windows_of_round(lanes * turns, parts, lanes=lanes)
    quotas = split_slots(lanes * turns * windows, parts, limits={})
    assert quotas is not None
    before = np.zeros((lanes, len(parts)), np.int64)
    return build_segment(start=start, turns=turns, round_windows=windows, quotas=quotas, before=before, seed=7)


@given(parts=ratios, num_slots=st.integers(1, 1000))
def test_slots_are_split_exactly_to_one(parts: list[int], num_slots: int) -> None:
    quotas = split_slots(num_slots, parts, limits={})
    assert quotas is not None
    assert sum(quotas) == num_slots
    assert all(abs(quota - num_slots * part / sum(parts)) < 1 for quota, part in zip(quotas, parts, strict=True))


def test_the_largest_remainder_gets_the_slot_that_is_left() -> None:
    assert split_slots(10, [5, 3, 2], limits={}) == (5, 3, 2)
    assert split_slots(10, [1, 1, 1], limits={}) == (4, 3, 3)
    assert split_slots(10, [55, 26, 19], limits={}) == (5, 3, 2)


def test_what_a_source_cannot_take_is_split_among_the_others() -> None:
    assert split_slots(10, [5, 3, 2], limits={0: 1}) == (1, 5, 4)
    assert split_slots(10, [5, 3, 2], limits={0: 1, 1: 2}) == (1, 2, 7)
    assert split_slots(10, [5, 3, 2], limits={0: 0, 1: 9, 2: 0}) is None
    assert split_slots(10, [5, 3, 2], limits={0: 5, 1: 3, 2: 2}) == (5, 3, 2)


@given(parts=ratios, lanes=st.integers(1, 9), turns=st.integers(1, 9), windows=st.integers(1, 12), start=st.integers(0, 20))
def test_each_lane_counts_every_source_without_a_gap_and_every_window_has_its_share_within_a_row(
    parts: list[int], lanes: int, turns: int, windows: int, start: int
) -> None:
    segment = segment_of(parts, lanes=lanes, turns=turns, start=start)
    positions = start + np.arange(windows * segment.slots)
    sources, counts = segment.choose(positions)
    for window in sources.reshape(windows, -1):
        assert np.all(np.abs(np.bincount(window, minlength=len(parts)) - np.diff(segment.bounds) / segment.round_windows) < 1)
    for lane in range(lanes):
        for source in range(len(parts)):
            own = np.sort(counts[(positions % lanes == lane) & (sources == source)])
            assert np.array_equal(own, np.arange(len(own)))
            assert segment.counts_after(windows)[lane, source] == len(own)


@given(parts=ratios, lanes=st.integers(1, 9), turns=st.integers(1, 9), windows=st.integers(0, 10**6))
def test_any_windows_that_are_as_many_as_a_round_have_the_quotas_and_in_as_many_rounds_as_lanes_every_lane_has_them(
    parts: list[int], lanes: int, turns: int, windows: int
) -> None:
    segment = segment_of(parts, lanes=lanes, turns=turns)
    quotas, before = np.diff(segment.bounds), segment.counts_after(windows)
    assert np.array_equal((segment.counts_after(windows + segment.round_windows) - before).sum(axis=0), quotas)
    assert np.all(segment.counts_after(windows + lanes * segment.round_windows) - before == quotas)


@given(parts=ratios, lanes=st.integers(1, 9), turns=st.integers(1, 9))
def test_a_round_has_whole_numbers_of_all_sources_where_there_is_room_for_so_many_residues(
    parts: list[int], lanes: int, turns: int
) -> None:
    segment = segment_of(parts, lanes=lanes, turns=turns)
    slots = segment.slots * segment.round_windows
    assert [quota * sum(parts) for quota in np.diff(segment.bounds)] == [slots * part for part in parts]
    assert windows_of_round(lanes * turns, [10**12 + 39, 1], lanes=lanes) == MOST_RESIDUES // lanes
    assert windows_of_round(2 * MOST_RESIDUES, [2, 1], lanes=2 * MOST_RESIDUES) == 1


@given(
    parts=st.lists(st.integers(1, 10**6), min_size=2, max_size=4),
    lanes=st.integers(1, 64),
    windows=st.lists(st.integers(1, 10**5), min_size=5),
)
def test_however_many_windows_are_read_shares_are_a_few_rows_from_exact(parts: list[int], lanes: int, windows: list[int]) -> None:
    segment = segment_of(parts, lanes=lanes, turns=64)
    for number in windows:
        exact = np.array(parts) / sum(parts) * number * segment.slots
        of_rounds = number / segment.round_windows  # each rounded to a row
        assert np.all(np.abs(segment.counts_after(number).sum(axis=0) - exact) < 6 + of_rounds)


def test_lanes_have_as_much_of_a_rare_source_as_each_other() -> None:
    segment = segment_of([997, 3], lanes=64, turns=16)
    for windows in (10, 100, 1000):
        rare = segment.counts_after(windows)[:, 1]
        assert abs(rare.sum() - 3.072 * windows) < 2
        assert rare.max() - rare.min() <= 3


def test_one_source_is_read_in_order() -> None:
    segment = segment_of([3], lanes=4, turns=1, start=6)
    sources, counts = segment.choose(6 + np.arange(12))
    assert sources.tolist() == [0] * 12
    assert counts.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_a_windows_turns_are_not_in_the_order_of_sources_and_differ_between_lanes_and_windows() -> None:
    segment = segment_of([1, 1], lanes=4, turns=16)
    sources = segment.choose(np.arange(2 * 64))[0].reshape(2, 16, 4)
    orders = {tuple(sources[window, :, lane].tolist()) for window in (0, 1) for lane in range(4)}
    assert len(orders) == 8
    assert tuple([0] * 8 + [1] * 8) not in orders


@given(parts=ratios, lanes=st.integers(1, 9), turns=st.integers(1, 9), data=st.data())
def test_no_lane_passes_a_limit_within_the_windows_told(parts: list[int], lanes: int, turns: int, data: st.DataObject) -> None:
    segment = segment_of(parts, lanes=lanes, turns=turns)
    limits = {source: data.draw(st.integers(0, 100)) for source in range(len(parts)) if data.draw(st.booleans())}
    windows = num_windows_within(segment, limits)
    if windows is None:
        assert not any(np.diff(segment.bounds)[source] for source in limits)
        return
    most, beyond = segment.counts_after(windows).max(axis=0), segment.counts_after(windows + 1).max(axis=0)
    assert all(most[source] <= limit for source, limit in limits.items())
    assert any(beyond[source] > limit for source, limit in limits.items())
