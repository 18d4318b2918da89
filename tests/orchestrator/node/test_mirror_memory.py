"""Copies take no memory that is promised already: it is given only as files are filled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from orchestrator.host_memory import HostMemory
from orchestrator.image_header import HEADER_BYTES, ImageHeader
from orchestrator.node import mirror_memory
from orchestrator.node.mirror_copies import new_files
from orchestrator.node.mirror_memory import ImageMemory
from orchestrator.node.mirror_wire import CopyRefused
from tests.orchestrator.node.mirrored import write_image

MB = 2**20
SIZE = HEADER_BYTES + 10 * MB


@pytest.fixture
def files() -> Iterator[tuple[int, ...]]:
    made = new_files()
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets what the host has left."""
    return lambda room: monkeypatch.setattr(mirror_memory, "host_memory", lambda: HostMemory(total=0, available=room))


def memory_of(files: tuple[int, ...]) -> ImageMemory:
    memory = ImageMemory()
    memory.add(files)
    return memory


def test_copies_that_begin_at_once_are_promised_no_more_than_there_is(files: tuple[int, ...], room: Callable[[int], None]):
    first, second = files
    memory = memory_of(files)
    room(11 * MB)

    memory.lay_out(ImageHeader(first), SIZE)
    with pytest.raises(CopyRefused, match=r"takes 0\.0 GB more memory.*set snapshot\.mirror=false"):
        memory.lay_out(ImageHeader(second), SIZE)

    room(20 * MB)
    memory.lay_out(ImageHeader(second), SIZE)


def test_a_copy_that_broke_off_takes_what_it_did_not_fill(files: tuple[int, ...], room: Callable[[int], None]):
    image = ImageHeader(files[0])
    memory = memory_of(files)
    room(11 * MB)
    memory.lay_out(image, SIZE)
    os.pwrite(image.fd, bytes(4 * MB), HEADER_BYTES)

    room(5 * MB)
    with pytest.raises(CopyRefused):
        memory.lay_out(image, SIZE)
    room(6 * MB)
    memory.lay_out(image, SIZE)


def test_what_a_worker_has_laid_out_and_not_yet_touched_is_promised(files: tuple[int, ...], room: Callable[[int], None]):
    own, copy = files
    memory = memory_of(files)
    os.ftruncate(own, SIZE)

    room(19 * MB)
    with pytest.raises(CopyRefused):
        memory.lay_out(ImageHeader(copy), SIZE)


def test_a_copy_over_another_of_its_size_takes_nothing(files: tuple[int, ...], room: Callable[[int], None]):
    memory = memory_of(files)
    room(0)
    held = write_image(files[0], 1, 1)

    memory.lay_out(ImageHeader(files[0]), held.size_bytes)

    assert ImageHeader(files[0]).held() is None


def test_a_copy_that_is_refused_leaves_the_one_before(files: tuple[int, ...], room: Callable[[int], None]):
    memory = memory_of(files)
    room(0)
    held = write_image(files[0], 1, 1)

    with pytest.raises(CopyRefused):
        memory.lay_out(ImageHeader(files[0]), SIZE)

    assert ImageHeader(files[0]).held() == held
