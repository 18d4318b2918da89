"""What torch.save wrote, read where it lies."""

import io

import pytest
import torch
from torch import Tensor

from orchestrator.worker.image import tensor_in_frame


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
