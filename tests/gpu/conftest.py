"""What every GPU test leaves behind: nothing, so that several processes can share a GPU."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _gives_its_memory_back() -> Iterator[None]:
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
