"""Every layout trains the same model: real processes over gloo against one process.

Losses alone would not do: a forgotten reduction of a partial gradient leaves them exact.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from gloo_world import run_in_world
from layout_cases import CPU, MODEL, OPTIMIZER, Trained, full, gradients, micro_batches, train, worst_difference
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh

from model.config import ParallelConfig
from model.gdn import Gates
from model.model import HybridLM
from model.optim import build_optimizer
from model.parallelize import build_model
from model.step import train_step
from model.titan import build_mesh, set_determinism

TWO_WAY = (ParallelConfig(dp_shard=2), ParallelConfig(tp=2))
DP2_TP2 = ParallelConfig(dp_shard=2, tp=2)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_every_layout_gives_the_numbers_of_one_process(num_ranks: int, tmp_path: Path) -> None:
    run_in_world(num_ranks, _each_layout_agrees_in_fp32_and_fp64, tmp_path)


def test_a_layout_repeats_itself_bit_for_bit(tmp_path: Path) -> None:
    run_in_world(2, _twice_the_same_bits, tmp_path)


def test_a_checkpoint_of_one_layout_continues_under_another(tmp_path: Path) -> None:
    run_in_world(2, _saved_under_dp2_continues_under_tp2, tmp_path)


def test_gates_stay_fp32_where_the_rest_computes_in_bf16(tmp_path: Path) -> None:
    run_in_world(2, _bf16_compute_with_fp32_gates, tmp_path)


def _each_layout_agrees_in_fp32_and_fp64(_: Path) -> None:
    layouts = TWO_WAY if dist.get_world_size() == 2 else (DP2_TP2,)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 5e-5)):
        alone = train(ParallelConfig(), dtype, num_steps=2)
        for layout in layouts:
            _assert_same_training(train(layout, dtype, num_steps=2), alone, tolerance, f"{layout} in {dtype}")


def _assert_same_training(ours: Trained, theirs: Trained, tolerance: float, case: str) -> None:
    assert worst_difference(ours.initial, theirs.initial)[0] == 0, f"{case}: initial weights"
    for our_step, their_step in zip(ours.results, theirs.results, strict=True):
        assert our_step.num_tokens == their_step.num_tokens, case
        assert our_step.loss == pytest.approx(their_step.loss, rel=tolerance), case
        assert our_step.grad_norm == pytest.approx(their_step.grad_norm, rel=tolerance), case
    for what in ("gradients", "weights"):
        distance, name = worst_difference(getattr(ours, what), getattr(theirs, what))
        assert distance < tolerance, f"{case}: {what} of {name} are {distance:.1e} off"


def _twice_the_same_bits(_: Path) -> None:
    set_determinism(0)
    for layout in TWO_WAY:
        first, second = train(layout, torch.float32, num_steps=2), train(layout, torch.float32, num_steps=2)
        assert first.results == second.results
        assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
        everywhere: list[object] = [None, None]
        dist.all_gather_object(everywhere, first.results)
        assert everywhere[0] == everywhere[1], "the ranks report different numbers"


def _saved_under_dp2_continues_under_tp2(directory: Path) -> None:
    saved = _build(TWO_WAY[0], seed=3)
    _train_step(saved, step=1)
    dcp.save(_state(saved), checkpoint_id=str(directory / "step_1"))

    loaded = _build(TWO_WAY[1], seed=99)
    state = _state(loaded)
    dcp.load(state, checkpoint_id=str(directory / "step_1"))
    set_state_dict(loaded[0], loaded[1], model_state_dict=state["model"], optim_state_dict=state["optimizer"])

    assert _same_bits(loaded, saved)
    before_loss, after_loss = _train_step(saved, step=2), _train_step(loaded, step=2)
    assert after_loss == pytest.approx(before_loss, rel=5e-5)
    assert worst_difference(_weights(loaded[0]), _weights(saved[0]))[0] < 5e-5


Built = tuple[HybridLM, torch.optim.Optimizer, ParallelConfig, DeviceMesh]


def _build(layout: ParallelConfig, *, seed: int) -> Built:
    mesh = build_mesh(layout, "cpu")
    model = build_model(MODEL, layout, mesh, device=CPU, seed=seed)
    return model, build_optimizer(model, OPTIMIZER), layout, mesh


def _train_step(built: Built, *, step: int) -> float:
    model, optimizer, layout, mesh = built
    return train_step(model, optimizer, micro_batches(step, layout, mesh, 1), lr=1e-2, config=OPTIMIZER, mesh=mesh).loss


def _state(built: Built) -> dict[str, dict]:
    model_state, optimizer_state = get_state_dict(built[0], built[1])
    return {"model": model_state, "optimizer": optimizer_state}


def _weights(model: HybridLM) -> dict[str, Tensor]:
    return full(dict(model.named_parameters()))


def _same_bits(ours: Built, theirs: Built) -> bool:
    """Weights, Adam's moments and step counts."""
    tensors = [full(_state(built)["model"]) for built in (ours, theirs)]
    moments = [full(_moments(_state(built)["optimizer"])) for built in (ours, theirs)]
    return all(torch.equal(first[name], second[name]) for first, second in (tensors, moments) for name in second)


def _moments(optimizer_state: dict) -> dict[str, Tensor]:
    return {f"{name}.{kind}": tensor for name, kinds in optimizer_state["state"].items() for kind, tensor in kinds.items()}


def _bf16_compute_with_fp32_gates(_: Path) -> None:
    exact = train(ParallelConfig(), torch.float32, num_steps=1)
    for layout in TWO_WAY:
        seen_by_gates: set[torch.dtype] = set()
        computed_in: set[torch.dtype] = set()
        mesh = build_mesh(layout, "cpu")
        model = build_model(MODEL, layout, mesh, device=CPU, seed=3, compute_dtype=torch.bfloat16)
        _watch(model, seen_by_gates, computed_in)

        result = train_step(
            model, build_optimizer(model, OPTIMIZER), micro_batches(1, layout, mesh, 2), lr=0.0, config=OPTIMIZER, mesh=mesh
        )

        assert (seen_by_gates, computed_in) == ({torch.float32}, {torch.bfloat16})
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
        assert result.loss == pytest.approx(exact.results[0].loss, rel=5e-3)
        distance, name = worst_difference(gradients(model), exact.gradients)
        assert distance < 0.1, f"{layout}: the gradient of {name} is {distance:.1e} off"


def _watch(model: HybridLM, seen_by_gates: set[torch.dtype], computed_in: set[torch.dtype]) -> None:
    """Notes the dtypes of the gates' parameters and outputs, and of what the blocks put out."""

    def note_gates(gates: Gates, _: object, outputs: tuple[Tensor, Tensor]) -> None:
        seen_by_gates.update({gates.A_log.dtype, gates.dt_bias.dtype, *(output.dtype for output in outputs)})

    for module in model.modules():
        if isinstance(module, Gates):
            module.register_forward_hook(note_gates)
    for block in model.layers:
        block.register_forward_hook(lambda _block, _inputs, output: computed_in.add(output.dtype))
