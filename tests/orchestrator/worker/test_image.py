"""What torch.save wrote, read where it lies; and how an image is laid out."""

import io
import os
import socket

import pytest
import torch
from torch import Tensor

from orchestrator.image_header import Span
from orchestrator.node.mirror_wire import Connection
from orchestrator.worker.image import build_image, new_memory, tensor_in_frame


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).view(3, 4).t(),
        torch.tensor(7),
        torch.arange(5, dtype=torch.bfloat16),
        torch.arange(10)[3:7],
        torch.empty(0, 3),
    ],
    ids=["transposed", "scalar", "bf16", "part", "empty"],
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_tensor_of_any_form_is_taken_from_a_file_as_torch_wrote_it(tensor: Tensor, before: int):
    file = io.BytesIO()
    torch.save(tensor, file)
    frame = memoryview(bytearray(bytes(before) + file.getvalue()))[before:]

    found = tensor_in_frame(frame)

    assert found.dtype == tensor.dtype
    assert found.stride() == tensor.stride()
    assert torch.equal(found, tensor)


def test_a_tensor_of_a_file_is_no_copy():
    file = io.BytesIO()
    torch.save(torch.zeros(4), file)
    frame = memoryview(bytearray(64 + file.tell()))
    start = next(at for at in range(64) if (torch.frombuffer(frame, dtype=torch.uint8).data_ptr() + at) % 64 == 0)
    frame[start : start + file.tell()] = file.getvalue()

    found = tensor_in_frame(frame[start : start + file.tell()])
    found.fill_(9)

    assert torch.equal(tensor_in_frame(frame[start : start + file.tell()]), torch.full((4,), 9.0))


def test_an_agent_that_sends_an_image_is_not_in_the_way_of_the_worker_that_lays_it_out():
    """Both have the same open file, whose place must be nobody's."""
    shards = {f"tensor {number}": torch.ones(1000) for number in range(5)}
    ours, theirs = socket.socketpair()
    with Connection(ours) as connection, theirs:
        (fd,) = new_memory(["image"])
        laid_out = build_image(fd, shards, files={"one": ["tensor 0", "tensor 1"]})
        os.lseek(fd, 123, os.SEEK_SET)

        connection.send(fd, Span(name="", start=500, size_bytes=1000))
        assert os.lseek(fd, 0, os.SEEK_CUR) == 123

        again = build_image(fd, shards, files={"one": ["tensor 0", "tensor 1"]})
        assert os.lseek(fd, 0, os.SEEK_CUR) == 123, "nor does the worker move it"
        assert (again.places, again.spans) == (laid_out.places, laid_out.spans)
        os.close(fd)
