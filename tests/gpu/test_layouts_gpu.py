"""The layouts under NCCL, in bf16 with flash-linear-attention's kernels and in fp32 with plain torch, against one GPU in fp32."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.parallel.config import ParallelConfig
from tests.model.gloo_world import run_in_world
from tests.model.layout_cases import Case, Trained, train, worst_difference

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's and fla's own
]
MODEL = ModelConfig(
    vocab_size=500,
    d_model=128,
    num_layers=3,
    layer_pattern="gdn attn window",
    window=6,
    num_heads=4,
    head_dim=32,
    gdn_key_dim=96,
    gdn_value_dim=192,
    ffn_width=250,
)
EXACT = Case(model=replace(MODEL, gdn_backend="torch"), dtype=torch.float32, device_type="cuda", num_steps=1)
BF16 = replace(EXACT, model=MODEL, dtype=torch.bfloat16)
TWO_WAY = (ParallelConfig(dp_shard=2), ParallelConfig(tp=2), ParallelConfig(cp=2), ParallelConfig(dp_replicate=2))


def test_one_gpu_in_bf16_is_near_fp32_however_it_is_computed(tmp_path: Path) -> None:
    run_in_world(1, _each_way_to_compute_is_near_fp32, tmp_path, backend="nccl")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_every_layout_of_two_gpus_gives_the_numbers_of_one(tmp_path: Path) -> None:
    run_in_world(2, _each_layout_agrees, tmp_path, backend="nccl")


def _each_way_to_compute_is_near_fp32(_: Path) -> None:
    exact = train(ParallelConfig(), EXACT)
    for compute in (
        ComputeConfig(loss_chunk_tokens=11),
        ComputeConfig(activation_checkpointing="full"),
        ComputeConfig(activation_checkpointing="selective"),
        ComputeConfig(compile=True),
        ComputeConfig(compile=True, activation_checkpointing="memory_budget"),
    ):
        _assert_near(train(ParallelConfig(), replace(BF16, compute=compute)), exact, str(compute))


def _each_layout_agrees(_: Path) -> None:
    exact = train(ParallelConfig(), EXACT)
    for layout in TWO_WAY:
        in_fp32 = train(layout, EXACT)
        assert in_fp32.results[0].loss == pytest.approx(exact.results[0].loss, rel=5e-5), layout
        distance, name = worst_difference(in_fp32.gradients, exact.gradients)
        assert distance < 5e-5, f"{layout} in fp32: the gradient of {name} is {distance:.1e} off"
        _assert_near(train(layout, BF16), exact, f"{layout} in bf16")
        dist.barrier()


def _assert_near(ours: Trained, exact: Trained, case: str) -> None:
    assert ours.results[0].loss == pytest.approx(exact.results[0].loss, rel=5e-3), case
    distance, name = worst_difference(ours.gradients, exact.gradients)
    assert distance < 0.1, f"{case}: the gradient of {name} is {distance:.1e} off"
