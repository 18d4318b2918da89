"""Initial weights are drawn where they are to be, and are the same bits there as on a CPU."""

import pytest
import torch

from model.build import build_model
from model.presets import PRESETS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def test_a_gpu_draws_the_bits_that_a_cpu_draws() -> None:
    there = build_model(PRESETS["tiny"], None, device=torch.device("cuda"), seed=7)
    here = build_model(PRESETS["tiny"], None, device=torch.device("cpu"), seed=7)
    for (name, parameter), expected in zip(there.named_parameters(), here.parameters(), strict=True):
        assert torch.equal(parameter.cpu(), expected), name
