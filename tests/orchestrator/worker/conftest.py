"""What the tests of this room share."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from orchestrator.worker.exchange import Exchange


@pytest.fixture(scope="module")
def group() -> Iterator[dist.ProcessGroup]:
    """A world of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.fixture
def exchange() -> Exchange:
    """Of a world of one, which has no process group."""
    return Exchange(dist.HashStore(), rank=0, world_size=1)
