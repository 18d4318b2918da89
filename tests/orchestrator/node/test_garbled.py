"""What is garbled in memory or on the wire is not there, and ends no thread."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orchestrator.image_header import ImageHeader, Word
from orchestrator.node.mirror_copies import new_files
from orchestrator.node.mirror_memory import ImageMemory
from orchestrator.node.mirror_wire import Connection, CopyRefused, Offer, Want, receive_image, send_image
from tests.orchestrator.node.mirrored import write_image

LENGTH_AT = 32


@pytest.fixture
def files() -> Iterator[tuple[int, ...]]:
    made = new_files()
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    here, there = socket.socketpair()
    with Connection(here) as first, Connection(there) as second:
        yield first, second


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**62, 2**64 - 1])
def test_a_header_whose_length_is_garbled_holds_nothing(files: tuple[int, ...], length: int):
    image = ImageHeader(files[0])
    write_image(files[0], 1, 1)
    os.pwrite(files[0], length.to_bytes(8, "little"), LENGTH_AT)

    assert image.held() is None
    assert image.digest() == b""


def test_a_header_that_is_garbled_is_copied_nowhere_and_the_next_snapshot_does_not_wait_for_that(files: tuple[int, ...]):
    image = ImageHeader(files[0])
    write_image(files[0], 1, 1)
    image.say(Word(is_mirrored=True))
    assert image.is_awaited

    os.pwrite(files[0], b"torn", 100)

    assert not image.is_awaited


def test_parts_that_were_not_offered_are_not_sent(files: tuple[int, ...], ends: tuple[Connection, Connection]):
    here, there = ends
    held, image = write_image(files[0], 1, 1), ImageHeader(files[0])
    there.tell(Want(spans=("another",)))

    with pytest.raises(CopyRefused, match="not offered"):
        send_image(here, image, Offer(held=held), image.digest())


def test_a_part_without_a_digest_is_never_what_was_offered(files: tuple[int, ...], ends: tuple[Connection, Connection]):
    here, there = ends
    held, memory = write_image(files[0], 1, 1, (10,)), ImageMemory()
    there._socket.sendall(bytes(30))

    with pytest.raises(CopyRefused, match="as something else"), ThreadPoolExecutor(1) as hands:
        receive_image(here, ImageHeader(files[1]), replace(held, digests={}), hands, lay_out=memory.lay_out, on_life=lambda: None)
