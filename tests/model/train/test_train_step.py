"""One process training: what a step reports, and that it is a function of its inputs."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial, partialmethod
from typing import Literal

import pytest
import torch
import torch._dynamo
import torch._functorch.config
from torchtitan.distributed.utils import clip_grad_norm_

from model.build import build_model
from model.compute import ComputeConfig
from model.layers.head import IGNORED, cross_entropy_sum
from model.optim.build import build_optimizer
from model.optim.config import ParamGroup
from model.parallel.config import ParallelConfig
from model.train.determinism import set_determinism
from model.train.spikes import SpikeGuard
from model.train.step import train_step
from tests.model.kernels.delta_rule.fake_fla import install
from tests.model.layout_cases import CPU, MODEL, OPTIMIZER, Case, batches, full, in_fp32, step_once, train, worst_difference

ONE = ParallelConfig()
CASE = in_fp32(Case(micro_rows=8))


@pytest.fixture
def deterministic() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    set_determinism(0)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("deterministic")
def test_two_identical_runs_agree_bit_for_bit() -> None:
    first, second = train(ONE, replace(CASE, num_steps=4)), train(ONE, replace(CASE, num_steps=4))
    assert first.results == second.results
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_micro_batches_with_unequal_valid_tokens_are_one_batch() -> None:
    whole = train(ONE, Case(micro_rows=8))
    parts = train(ONE, Case(micro_rows=3))
    assert [step.loss for step in parts.results] == pytest.approx([step.loss for step in whole.results], rel=1e-12)
    assert worst_difference(parts.weights, whole.weights)[0] < 1e-12


def test_cross_entropy_and_z_loss_are_apart_and_means_per_valid_token_before_the_update() -> None:
    model = build_model(MODEL, None, device=CPU, seed=3)
    [batch] = batches(1, None, CASE)
    with torch.no_grad():
        logits = model(batch.tokens_BT, batch.documents)
        (loss_sum, num_valid), (with_z, _) = (cross_entropy_sum(logits, batch.labels_BT, weight) for weight in (0.0, OPTIMIZER.z_loss))

    result = step_once(model, build_optimizer(model, model.declared, OPTIMIZER), 1, None, CASE)

    assert result.loss == pytest.approx((loss_sum / num_valid).item(), rel=1e-6)
    assert result.z_loss == pytest.approx(((with_z - loss_sum) / num_valid).item(), rel=1e-2)
    assert result.tokens == (batch.labels_BT != IGNORED).sum()


def test_gradients_are_clipped_to_the_norm_and_reported_before() -> None:
    model = build_model(MODEL, None, device=CPU, seed=3)
    case = replace(CASE, optimizer=replace(OPTIMIZER, clip_norm=1e-3))
    result = step_once(model, build_optimizer(model, model.declared, case.optimizer), 1, None, case, lr=0.0)
    clipped = torch.stack([parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]).norm()
    assert result.grad_norm > 1e-2
    assert clipped.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("clip_norm", [0.05, 100.0])
def test_a_step_is_torchs_of_gradients_that_torchtitan_clips_to_the_bit(clip_norm: float) -> None:
    model = build_model(MODEL, None, device=CPU, seed=3)
    case = replace(CASE, optimizer=replace(OPTIMIZER, clip_norm=clip_norm, groups=()))
    optimizer, theirs = build_optimizer(model, model.declared, case.optimizer), copy.deepcopy(model)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.1, fused=True)
    for step in (1, 2):
        [batch] = batches(step, None, case)
        adamw.zero_grad()
        loss_sum, _ = theirs.loss_sum(batch.tokens_BT, batch.labels_BT, batch.documents, z_loss=OPTIMIZER.z_loss, chunk_tokens=11)
        (loss_sum / (batch.labels_BT != IGNORED).sum()).backward()
        norm = clip_grad_norm_(theirs.parameters(), clip_norm)
        adamw.step()
        assert step_once(model, optimizer, step, None, case).grad_norm == norm.item()
    assert all(map(torch.equal, model.parameters(), theirs.parameters()))


def test_a_rate_of_zero_changes_nothing() -> None:
    model = build_model(MODEL, None, device=CPU, seed=3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step_once(model, build_optimizer(model, model.declared, OPTIMIZER), 1, None, CASE, lr=0.0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_rate_of_a_group_is_the_steps_times_its_scale(name: Literal["adamw", "muon"]) -> None:
    groups = (ParamGroup(pattern="layers.1.*", lr_scale=0.0), ParamGroup(pattern="head.weight", lr_scale=0.5))
    case = replace(CASE, optimizer=replace(OPTIMIZER, name=name, groups=groups))
    model = build_model(MODEL, None, device=CPU, seed=3)
    optimizer = build_optimizer(model, model.declared, case.optimizer)
    before = full(dict(model.named_parameters()))
    step_once(model, optimizer, 1, None, case, lr=3e-3)
    moved = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if not name.startswith("layers.1.")}
    assert {group["lr_scale"]: group["lr"] for group in optimizer.param_groups} == {0.0: 0.0, 0.5: 1.5e-3, 1.0: 3e-3}


@pytest.mark.parametrize("spike", ["loss", "grad_norm"])
def test_a_spike_changes_neither_parameters_nor_optimizer(spike: Literal["loss", "grad_norm"]) -> None:
    """The optimizer has state of its own by then; the step after, which is no spike, is taken."""
    model = build_model(MODEL, None, device=CPU, seed=3)
    optimizer = build_optimizer(model, model.declared, OPTIMIZER)
    step_once(model, optimizer, 1, None, CASE)
    usual = torch.tensor([100.0, 100.0], dtype=torch.float64)
    usual[["loss", "grad_norm"].index(spike)] = 0.0
    before = full(dict(model.named_parameters())), copy.deepcopy(optimizer.state_dict())
    guarded = partial(train_step, model, optimizer, lr=1e-2, config=OPTIMIZER, chunk_tokens=11, mesh=None)

    skipped, _ = guarded(batches(2, None, CASE), spikes=SpikeGuard(sigma=3.0, history=usual.repeat(4, 1)))

    assert skipped.skipped
    assert skipped.loss > 0
    assert skipped.grad_norm > 0
    torch.testing.assert_close((full(dict(model.named_parameters())), optimizer.state_dict()), before, rtol=0.0, atol=0.0)

    taken, _ = guarded(batches(2, None, CASE), spikes=SpikeGuard(sigma=3.0, history=torch.full((4, 2), 100.0, dtype=torch.float64)))
    assert taken == replace(skipped, skipped=False)
    assert not torch.equal(model.head.weight, before[0]["head.weight"])


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("what", ["gradient", "loss"])
def test_an_update_that_is_not_finite_is_withheld_and_told(name: Literal["adamw", "muon"], what: Literal["gradient", "loss"]) -> None:
    """A single number of one gradient, or the loss alone, is enough; nothing of it is left in the next step."""
    case = replace(CASE, optimizer=replace(OPTIMIZER, name=name))
    model = build_model(MODEL, None, device=CPU, seed=3)
    optimizer = build_optimizer(model, model.declared, case.optimizer)
    step_once(model, optimizer, 1, None, case)
    before = full(dict(model.named_parameters())), copy.deepcopy(optimizer.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        if what == "loss":
            nothing = torch.tensor([torch.inf, 0.0])
            patch.setattr(type(model), "loss_sum", lambda self, *args, **kwargs: (0 * self.norm.weight.sum(), nothing))
        else:
            handle = model.norm.weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([1]), torch.nan))
        skipped = step_once(model, optimizer, 2, None, case)
        if what == "gradient":
            handle.remove()

    assert (skipped.skipped, skipped.is_finite) == (True, False)
    torch.testing.assert_close((full(dict(model.named_parameters())), optimizer.state_dict()), before, rtol=0.0, atol=0.0)
    taken = step_once(model, optimizer, 2, None, case)
    assert (taken.skipped, taken.is_finite) == (False, True)


def test_a_batch_is_learnt_by_heart() -> None:
    model = build_model(MODEL, None, device=CPU, seed=3)
    optimizer = build_optimizer(model, model.declared, OPTIMIZER)
    losses = [step_once(model, optimizer, 1, None, CASE, lr=2e-2).loss for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_what_is_recomputed_in_the_backward_is_what_it_was(mode: Literal["selective", "full"]) -> None:
    kept = train(ONE, CASE)
    recomputed = train(ONE, replace(CASE, compute=replace(CASE.compute, activation_checkpointing=mode)))
    assert recomputed.results == kept.results
    assert all(torch.equal(recomputed.weights[name], weight) for name, weight in kept.weights.items())


@pytest.mark.parametrize(("mode", "num_forwards"), [("none", 1), ("selective", 1), ("full", 2)])
def test_only_full_checkpointing_runs_the_delta_rule_again(
    monkeypatch: pytest.MonkeyPatch, mode: Literal["none", "selective", "full"], num_forwards: int
) -> None:
    fla = install(monkeypatch)
    config = replace(MODEL, num_layers=4, layer_pattern="gdn attn", gdn_backend="fla")
    model = build_model(config, None, device=CPU, seed=3, compute=ComputeConfig(activation_checkpointing=mode))
    step_once(model, build_optimizer(model, model.declared, OPTIMIZER), 1, None, CASE)
    assert (fla.num_forwards, fla.num_backwards) == (2 * num_forwards, 2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks, and hides it
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_every_block_compiles_whole_and_layers_of_a_kind_share_their_graph() -> None:
    """With the compiler's own backend left out: it is slow on a CPU, and what may break a graph comes before it."""
    case = Case(model=replace(MODEL, num_layers=6), micro_rows=8)
    eager = train(ONE, case)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager"))
        compiled = train(ONE, replace(case, compute=ComputeConfig(compile=True, loss_chunk_tokens=11)))
    assert worst_difference(compiled.weights, eager.weights)[0] < 1e-12
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_memory_budget_makes_the_compiler_keep_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's own partitioner, which decides, but not its code generator."""
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager_decomp_partition"))
    monkeypatch.setattr(torch._functorch.config, "activation_memory_budget", 1.0)
    [batch] = batches(1, None, CASE)
    num_kept = {}
    for budget in (1.0, 0.0):
        torch._dynamo.reset()
        compute = ComputeConfig(compile=True, activation_checkpointing="memory_budget", memory_budget=budget)
        model = build_model(MODEL, None, device=CPU, seed=3, compute=compute)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda saved, kept=kept: kept.append(saved.numel()) or saved, lambda saved: saved):
            loss, _ = model.loss_sum(batch.tokens_BT, batch.labels_BT, batch.documents, z_loss=0.0, chunk_tokens=50)
        loss.backward()
        num_kept[budget] = sum(kept)
    assert num_kept[0.0] < 0.4 * num_kept[1.0]
