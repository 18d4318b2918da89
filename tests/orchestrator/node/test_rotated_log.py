"""A log that can't fill the disk, and readers that follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.node.rotated_log import RotatedLog


@pytest.fixture
def log(tmp_path: Path) -> RotatedLog:
    return RotatedLog(tmp_path / "rank.log", segment_bytes=10)


def write(log: RotatedLog, *pieces: bytes) -> None:
    for piece in pieces:
        log.write(piece)


def test_a_reader_follows_across_a_rotation(log: RotatedLog):
    write(log, b"0123456789", b"abcde")

    first, offset = log.read(0, 8)
    second, end = log.read(offset, 100)

    assert (first, second, end) == (b"01234567", b"89abcde", 15)
    assert log.read(end, 100) == (b"", 15)


def test_only_the_two_newest_segments_stay_on_the_disk(log: RotatedLog, tmp_path: Path):
    write(log, b"0123456789", b"abcdefghij", b"ABCDE")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank.log", "rank.log.1"]
    assert log.read(0, 100) == (b"abcdefghijABCDE", 25)


def test_an_offset_beyond_the_end_waits_at_the_end(log: RotatedLog):
    write(log, b"0123")

    assert log.read(99, 100) == (b"", 4)


def test_the_tail_is_the_newest_part(log: RotatedLog):
    write(log, b"0123456789", b"abcde")

    assert log.tail(7) == b"89abcde"


def test_a_piece_larger_than_a_segment_is_kept_whole(log: RotatedLog):
    write(log, b"x" * 25)

    assert log.read(0, 100) == (b"x" * 25, 25)
