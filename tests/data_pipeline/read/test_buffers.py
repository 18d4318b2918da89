"""Memory is taken again, and never from somebody who still looks at it."""

import torch

from data_pipeline.read.buffers import Buffers


def test_memory_that_nobody_holds_is_taken_again():
    buffers = Buffers()
    addresses = {buffers.take(4, 1000).ctypes.data for _ in range(10)}
    assert len(addresses) == 1
    assert buffers.take(4, 2000).shape == (4, 2000), "another size is other memory"


def test_who_holds_a_view_or_a_tensor_of_a_batch_keeps_it():
    buffers = Buffers()
    first = buffers.take(4, 1000)
    first[:] = 7
    held = torch.from_numpy(first[:, 1:])[2:, 3:][0, :5]
    del first
    for _ in range(10):
        buffers.take(4, 1000)[:] = 8
    assert held.tolist() == [7] * 5
    address = held.data_ptr()
    del held
    again = buffers.take(4, 1000).ctypes.data
    assert again <= address < again + 8 * 4000, "and gives it back"
