"""The memory of a layout by formula; that real steps take so much is tests/bench/test_memory.py's."""

import subprocess
import sys
from dataclasses import replace

import pytest

from model.compute import ComputeConfig
from model.config import ModelConfig
from model.costs.memory import MemoryPrediction, predict_memory
from model.declare import Cut, Kind
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from model.parameters import model_parameters, num_params
from model.presets import PRESETS
from model.share import Share

HYBRID_7B = PRESETS["olmo_hybrid_7b"]


def predict(
    model: ModelConfig = HYBRID_7B,
    mode: str = "none",
    *,
    seq_len: int = 8192,
    optimizer: str = "adamw",
    budget: float = 0.5,
    compiles: bool = False,
    device_type: str = "cuda",
    **layout: int,
) -> MemoryPrediction:
    compute = ComputeConfig(activation_checkpointing=mode, memory_budget=budget, compile=compiles or mode == "memory_budget")
    return predict_memory(
        model, ParallelConfig(**layout), compute, OptimizerConfig(name=optimizer), micro_rows=1, seq_len=seq_len, device_type=device_type
    )


def test_one_gpu_holds_sixteen_bytes_of_every_parameter() -> None:
    held = predict()
    assert (held.parameters, held.gradients, held.optimizer) == tuple(size * num_params(HYBRID_7B) for size in (4, 4, 8))
    assert held.total == sum((held.parameters, held.gradients, held.optimizer, held.activations, held.unsharded, held.working))


def test_shards_divide_what_is_held_and_replicas_do_not() -> None:
    whole, sharded = predict(), predict(dp_shard=128)
    assert whole.parameters / 128 <= sharded.parameters < 1.005 * whole.parameters / 128  # rows are dealt whole
    assert predict(dp_shard=128, dp_replicate=4) == sharded
    assert predict(dp_shard=64, cp=2).optimizer == sharded.optimizer


def test_tp_divides_everything_but_the_norms() -> None:
    norms = 4 * sum(parameter.size for parameter in model_parameters(HYBRID_7B).values() if parameter.cut is Cut.NOTHING)
    assert predict(tp=2).parameters == (predict().parameters + norms) / 2


def test_the_fullest_rank_counts_where_rows_do_not_divide() -> None:
    odd = replace(PRESETS["tiny"], vocab_size=101)
    even = replace(odd, vocab_size=102)
    assert predict(odd, tp=2).parameters == predict(even, tp=2).parameters
    assert predict(odd, dp_shard=2).gradients == predict(even, dp_shard=2).gradients


def test_muon_keeps_one_number_for_a_matrix_inside_a_block() -> None:
    matrices = sum(parameter.size for parameter in model_parameters(HYBRID_7B).values() if parameter.kind is Kind.MATRIX)
    assert predict().optimizer - predict(optimizer="muon").optimizer == 4 * matrices


def test_checkpointing_keeps_less_the_more_is_recomputed() -> None:
    none, selective, full = (predict(mode=mode, dp_shard=128) for mode in ("none", "selective", "full"))
    assert none.activations > 2 * selective.activations > 10 * full.activations
    assert none.total > selective.total > full.total


def test_a_memory_budget_lies_between_full_checkpointing_and_none() -> None:
    least, half, most = (predict(mode="memory_budget", budget=budget).activations for budget in (0.0, 0.5, 1.0))
    assert (least, most) == tuple(predict(mode=mode, compiles=True).activations for mode in ("full", "none"))
    assert half == pytest.approx((least + most) / 2)


@pytest.mark.parametrize("axis", ["tp", "cp"])
def test_ranks_that_share_a_row_share_its_activations(axis: str) -> None:
    alone = predict(compiles=True, dp_shard=2)  # as plain torch, which the QK-norms are under tp anyhow
    shared = predict(compiles=True, dp_shard=2, **{axis: 2})
    assert 0.5 <= shared.activations / alone.activations < 0.53


def test_our_own_kernels_keep_their_inputs_alone_on_a_gpu_where_the_compiler_is_not_at_work() -> None:
    assert predict(dp_shard=2).activations < 0.75 * predict(dp_shard=2, compiles=True).activations
    assert predict(dp_shard=2, device_type="cpu").activations == predict(dp_shard=2, device_type="cpu", compiles=True).activations


def test_a_norm_over_the_heads_of_several_ranks_is_plain_torch() -> None:
    fused = Share(parallel=ParallelConfig(), compute=ComputeConfig(), rows=1, seq_len=64, narrow=2, device_type="cuda")
    shared = replace(fused, parallel=ParallelConfig(tp=2))
    assert fused.full_width_norm(10) == fused.norm(10) == shared.norm(10) == 20
    assert shared.full_width_norm(10) == replace(fused, device_type="cpu").norm(10) == 84


def test_a_rank_that_holds_all_parameters_keeps_narrow_copies_of_them_and_gathers_none() -> None:
    blocks = sum(parameter.size for name, parameter in model_parameters(HYBRID_7B).items() if name.startswith("layers."))
    alone, sharded = predict(), predict(dp_shard=2)
    assert alone.activations - sharded.activations == pytest.approx(2 * blocks, rel=0.05)  # as if all were as large as the largest
    assert predict(mode="full").activations == predict(mode="full", dp_shard=2).activations


def test_activations_grow_with_the_row_and_the_logits_do_not() -> None:
    short, long = predict(dp_shard=2), predict(dp_shard=2, seq_len=65536)
    assert long.activations == pytest.approx(8 * short.activations, rel=1e-3)
    logits_in_fp32 = 4 * 65536 * HYBRID_7B.vocab_size
    assert predict(mode="full", seq_len=65536).working < logits_in_fp32 + predict(mode="full", seq_len=65536).activations


@pytest.mark.parametrize(
    ("device_type", "compute_bytes", "bytes_per_logit"),
    [("cuda", 2, 2), ("cuda", 4, 4), ("cpu", 4, 4), ("cpu", 2, 2 + 4 + 2)],
)
def test_logits_become_their_gradient_in_place_but_where_plain_torch_widens_them(
    device_type: str, compute_bytes: int, bytes_per_logit: int
) -> None:
    model = replace(PRESETS["tiny"], vocab_size=100_352)  # so that the fullest moment is the loss
    few, many = (
        predict_memory(
            model,
            ParallelConfig(),
            ComputeConfig(loss_chunk_tokens=chunk_tokens),
            OptimizerConfig(),
            micro_rows=1,
            seq_len=8192,
            compute_bytes=compute_bytes,
            device_type=device_type,
        ).working
        for chunk_tokens in (4096, 8192)
    )
    assert many - few == 4096 * model.vocab_size * bytes_per_logit


def test_a_layout_that_cuts_heads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parallel\.tp=4: 30 heads; use 1, 2, 3, 5, 6, 10, 15 or 30"):
        predict(tp=4)


def test_a_prediction_costs_no_torch() -> None:
    code = "import sys, model.costs.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
