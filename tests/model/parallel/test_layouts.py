"""Every layout trains the same model: real processes over gloo against one process.

Losses alone would not do: a forgotten reduction of a partial gradient leaves them exact.
"""

from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import FSDPModule

from model.build import build_model
from model.compute import ComputeConfig
from model.lm import HybridLM
from model.mixers.context import Context
from model.mixers.registry import MIXERS
from model.optim.build import build_optimizer
from model.parallel.config import ParallelConfig
from model.parallel.mesh import Mesh, build_mesh
from model.train.determinism import set_determinism
from tests.model.gloo_world import run_in_world
from tests.model.layout_cases import (
    CPU,
    MODEL,
    OPTIMIZER,
    Case,
    Trained,
    batches,
    full,
    gradients,
    in_fp32,
    step_once,
    train,
    worst_difference,
)

TWO_WAY = (ParallelConfig(dp_shard=2), ParallelConfig(tp=2), ParallelConfig(cp=2), ParallelConfig(dp_replicate=2))
FOUR_WAY = (
    ParallelConfig(tp=4),
    ParallelConfig(cp=4),
    ParallelConfig(cp=2, tp=2),
    ParallelConfig(dp_shard=2, tp=2),
    ParallelConfig(dp_shard=2, cp=2),
    ParallelConfig(dp_replicate=2, dp_shard=2),
    ParallelConfig(dp_replicate=2, tp=2),
)
EIGHT_WAY = (
    ParallelConfig(dp_replicate=2, dp_shard=2, tp=2),
    ParallelConfig(dp_replicate=2, dp_shard=2, cp=2),
    ParallelConfig(dp_replicate=2, cp=2, tp=2),
    ParallelConfig(dp_shard=2, cp=2, tp=2),
)
UNPACKED = Case(is_packed=False, micro_rows=2)
GROUPED = Case(model=replace(MODEL, gdn_num_value_heads=12), num_steps=1)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_every_layout_gives_the_numbers_of_one_process(num_ranks: int, tmp_path: Path) -> None:
    run_in_world(num_ranks, _each_layout_agrees, tmp_path)


def test_three_axes_at_once_give_the_numbers_of_one_process(tmp_path: Path) -> None:
    run_in_world(8, _three_axes_agree, tmp_path)


def test_layouts_stay_together_over_ten_optimizer_steps(tmp_path: Path) -> None:
    run_in_world(2, _ten_steps_agree, tmp_path)


def test_compiled_blocks_give_the_same_numbers_however_much_they_recompute(tmp_path: Path) -> None:
    run_in_world(2, _compiled_layouts_agree, tmp_path)


def test_steps_leave_nothing_behind_and_a_load_after_an_evaluation_counts(tmp_path: Path) -> None:
    run_in_world(2, _hooks_stay_few_and_loads_count, tmp_path)


def test_a_layout_repeats_itself_bit_for_bit(tmp_path: Path) -> None:
    run_in_world(2, _twice_the_same_bits, tmp_path)


def test_a_checkpoint_of_one_layout_continues_under_another(tmp_path: Path) -> None:
    run_in_world(2, _saved_under_dp2_continues_under_the_others, tmp_path)


def test_gates_and_rotary_tables_stay_fp32_where_the_rest_computes_in_bf16(tmp_path: Path) -> None:
    run_in_world(2, _bf16_compute_with_fp32_gates, tmp_path)


def test_the_model_of_these_tests_has_every_kind_of_mixer() -> None:
    assert set(MODEL.layer_kinds) == set(MIXERS)


def _each_layout_agrees(_: Path) -> None:
    num_ranks = dist.get_world_size()
    for case in (Case(), in_fp32(Case()), UNPACKED, GROUPED) if num_ranks == 2 else (Case(num_steps=1), GROUPED):
        alone = train(ParallelConfig(), case)
        for layout in TWO_WAY if num_ranks == 2 else FOUR_WAY:
            ours = train(layout, case)
            _assert_same_training(ours, alone, case, f"{layout}, {case.dtype}, packed: {case.is_packed}")
            everywhere: list[object] = [None] * num_ranks
            dist.all_gather_object(everywhere, ours.results)
            assert all(theirs == ours.results for theirs in everywhere), f"{layout}: the ranks report different bits"


def _three_axes_agree(_: Path) -> None:
    case = Case(num_steps=1)
    alone = train(ParallelConfig(), case)
    for layout in EIGHT_WAY:
        _assert_same_training(train(layout, case), alone, case, str(layout))


def _ten_steps_agree(_: Path) -> None:
    case = Case(num_steps=10)
    alone = train(ParallelConfig(), case)
    for layout in TWO_WAY:
        together = train(layout, case)
        assert [step.loss for step in together.results] == pytest.approx([step.loss for step in alone.results], rel=1e-12), layout
        assert worst_difference(together.weights, alone.weights)[0] < 1e-11, layout


def _compiled_layouts_agree(_: Path) -> None:
    """With the compiler's own backend left out, as in test_train_step."""
    compiled = partialmethod(torch.nn.Module.compile, backend="aot_eager")
    torch.nn.Module.compile = compiled  # type: ignore[method-assign, assignment] # in this process alone
    for layout, modes in zip(TWO_WAY, (("selective",), ("none", "selective", "full"), ("full",)), strict=False):
        eager = train(layout, Case(num_steps=1))
        for mode in modes:
            torch._dynamo.reset()
            compute = ComputeConfig(compile=True, activation_checkpointing=mode, loss_chunk_tokens=11)
            ours = train(layout, Case(num_steps=1, compute=compute))
            assert worst_difference(ours.gradients, eager.gradients)[0] < 1e-13, f"{layout}, {mode}"


def _hooks_stay_few_and_loads_count(_: Path) -> None:
    case = in_fp32(Case(num_steps=1))
    for layout in (TWO_WAY[0], TWO_WAY[1]):
        model, optimizer, mesh = _build(layout, seed=3)
        other, _optimizer, _mesh = _build(layout, seed=4)
        for step in range(1, 4):
            step_once(model, optimizer, step, mesh, case)
        assert {len(parameter._backward_hooks or {}) for parameter in _computed_with(model)} == {0}

        [batch] = batches(1, mesh, replace(case, micro_rows=8))
        with torch.no_grad():
            model(batch.tokens_BT, batch.documents)
            for parameter, theirs in zip(model.parameters(), other.parameters(), strict=True):
                parameter.copy_(theirs)
        assert step_once(model, optimizer, 1, mesh, case, lr=0.0).loss == step_once(other, _optimizer, 1, mesh, case, lr=0.0).loss, layout


def _computed_with(model: HybridLM) -> list[Tensor]:
    """What FSDP gathers, or the parameters themselves where nothing is to be gathered."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    gathered = [p._unsharded_param for module in modules for p in module._get_fsdp_state()._fsdp_param_group.fsdp_params]
    return gathered or list(model.parameters())


def _assert_same_training(ours: Trained, theirs: Trained, case: Case, name: str) -> None:
    tolerance = 1e-12 if case.dtype == torch.float64 else 5e-5
    assert worst_difference(ours.initial, theirs.initial)[0] == 0, f"{name}: initial weights"
    for our_step, their_step in zip(ours.results, theirs.results, strict=True):
        assert our_step.tokens == their_step.tokens, name
        assert our_step.loss == pytest.approx(their_step.loss, rel=tolerance), name
        assert our_step.grad_norm == pytest.approx(their_step.grad_norm, rel=tolerance), name
    for what in ("gradients", "weights"):
        distance, parameter = worst_difference(getattr(ours, what), getattr(theirs, what))
        assert distance < tolerance, f"{name}: {what} of {parameter} are {distance:.1e} off"


def _twice_the_same_bits(_: Path) -> None:
    set_determinism(0)
    for layout in TWO_WAY:
        first, second = train(layout, in_fp32(Case())), train(layout, in_fp32(Case()))
        assert first.results == second.results
        assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
        everywhere: list[object] = [None, None]
        dist.all_gather_object(everywhere, first.results)
        assert everywhere[0] == everywhere[1], "the ranks report different numbers"


def _saved_under_dp2_continues_under_the_others(directory: Path) -> None:
    saved = _build(TWO_WAY[0], seed=3)
    _train_step(saved, step=1)
    dcp.save(_state(saved), checkpoint_id=str(directory / "step_1"))
    saved_state = {kind: full(_flat(part)) for kind, part in _state(saved).items()}
    before_loss = _train_step(saved, step=2)

    for layout in TWO_WAY[1:]:
        loaded = _build(layout, seed=99)
        state = _state(loaded)
        dcp.load(state, checkpoint_id=str(directory / "step_1"))
        set_state_dict(loaded[0], loaded[1], model_state_dict=state["model"], optim_state_dict=state["optimizer"])

        for kind, part in _state(loaded).items():
            ours = full(_flat(part))
            assert all(torch.equal(ours[name], theirs) for name, theirs in saved_state[kind].items()), f"{layout}: {kind}"
        assert _train_step(loaded, step=2) == pytest.approx(before_loss, rel=5e-5), layout
        assert worst_difference(_weights(loaded[0]), _weights(saved[0]))[0] < 5e-5, layout


Built = tuple[HybridLM, torch.optim.Optimizer, Mesh]


def _build(layout: ParallelConfig, *, seed: int) -> Built:
    mesh = build_mesh(layout, "cpu")
    model = build_model(MODEL, mesh, device=CPU, seed=seed)
    return model, build_optimizer(model, model.declared, OPTIMIZER), mesh


def _train_step(built: Built, *, step: int) -> float:
    model, optimizer, mesh = built
    return step_once(model, optimizer, step, mesh, in_fp32(Case())).loss


def _state(built: Built) -> dict[str, dict]:
    """Weights, Adam's moments and step counts."""
    model_state, optimizer_state = get_state_dict(built[0], built[1])
    return {"model": model_state, "optimizer": optimizer_state}


def _flat(state: dict) -> dict[str, Tensor]:
    if "state" not in state:
        return state
    return {f"{name}.{kind}": tensor for name, kinds in state["state"].items() for kind, tensor in kinds.items()}


def _weights(model: HybridLM) -> dict[str, Tensor]:
    return full(dict(model.named_parameters()))


def _bf16_compute_with_fp32_gates(_: Path) -> None:
    case = replace(in_fp32(Case()), num_steps=1)
    exact = train(ParallelConfig(), case)
    for layout in TWO_WAY:
        gate_dtypes: set[torch.dtype] = set()
        computed_in: set[torch.dtype] = set()
        mesh = build_mesh(layout, "cpu")
        model = build_model(MODEL, mesh, device=CPU, seed=3, compute_dtype=torch.bfloat16)
        _watch(model, gate_dtypes, computed_in)

        result = step_once(model, build_optimizer(model, model.declared, OPTIMIZER), 1, mesh, case, lr=0.0)

        assert (gate_dtypes, computed_in) == ({torch.float32}, {torch.bfloat16})
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
        assert result.loss == pytest.approx(exact.results[0].loss, rel=5e-3)
        distance, name = worst_difference(gradients(model), exact.gradients)
        assert distance < 0.1, f"{layout}: the gradient of {name} is {distance:.1e} off"


def _watch(model: HybridLM, gate_dtypes: set[torch.dtype], computed_in: set[torch.dtype]) -> None:
    """Notes the dtypes of the gates and rotary tables that arrive in the mixers, and of what the blocks put out."""

    def note_tables(_mixer: nn.Module, inputs: tuple[Tensor, Context]) -> None:
        gate_dtypes.update(table.dtype for table in (*inputs[1].gate, *(inputs[1].rotary or ())))

    for block in model.layers:
        block.mixer.register_forward_pre_hook(note_tables)
        block.register_forward_hook(lambda _block, _inputs, output: computed_in.add(output.dtype))
