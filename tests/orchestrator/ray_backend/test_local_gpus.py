"""How many GPUs a local cluster has."""

from __future__ import annotations

import pytest

from orchestrator.ray_backend.local.main import NvidiaGPUAcceleratorManager, visible_gpus


@pytest.mark.parametrize(("visible", "count"), [(None, 4), ("", 0), ("0,2", 2), ("0,1,2,3,4", 4)])
def test_a_local_head_has_the_gpus_of_the_machine_that_cuda_may_see(visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(NvidiaGPUAcceleratorManager, "get_current_node_num_accelerators", staticmethod(lambda: 4))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert visible_gpus() == count
