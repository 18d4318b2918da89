"""The self-check on the GPUs of this machine: every one is right."""

import pytest
import torch

from model.parallel.config import ParallelConfig
from model.presets import PRESETS
from model.self_check import find_wrong_kernel

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's own
]


@pytest.mark.parametrize("preset", ["tiny", "olmo_hybrid_1b", "olmo_hybrid_7b"])
def test_every_gpu_computes_what_it_should(preset: str) -> None:
    model = PRESETS[preset]
    for index in range(torch.cuda.device_count()):
        assert find_wrong_kernel(model, ParallelConfig(), device=torch.device("cuda", index)) == ""
