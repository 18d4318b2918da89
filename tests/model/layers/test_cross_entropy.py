"""The plain loss against torch's, and the one that is fused with the head against the plain one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

from model.layers.head import IGNORED, cross_entropy_sum, head_loss_sum
from tests.model.gloo_world import run_in_world

ROWS, TOKENS, WIDTH, VOCAB = 2, 11, 6, 101


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 11, (2, 5), generator=generator)
    labels[0, 1:3] = IGNORED
    return logits.requires_grad_(), labels


def test_it_is_the_sum_over_valid_tokens_and_their_number(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    loss_sum, num_valid = cross_entropy_sum(logits, labels, z_loss=0.0)
    torch.testing.assert_close(loss_sum, expected)
    assert num_valid.item() == 8
    torch.testing.assert_close(torch.autograd.grad(loss_sum, logits), torch.autograd.grad(expected, logits))


def test_z_loss_adds_the_squared_log_partition_of_valid_tokens(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    plain, _ = cross_entropy_sum(logits, labels, z_loss=0.0)
    with_z, _ = cross_entropy_sum(logits, labels, z_loss=0.5)
    expected = 0.5 * logits.logsumexp(-1).square()[labels != IGNORED].sum()
    torch.testing.assert_close(with_z - plain, expected)
    torch.testing.assert_close(torch.autograd.grad(with_z - plain, logits), torch.autograd.grad(expected, logits))


def test_huge_logits_do_not_overflow() -> None:
    logits = torch.tensor([[[1e4, 0.0]]], requires_grad=True)
    loss_sum, _ = cross_entropy_sum(logits, torch.tensor([[1]]), z_loss=0.0)
    assert loss_sum.item() == 1e4
    assert torch.autograd.grad(loss_sum, logits)[0].tolist() == [[[1.0, -1.0]]]


def test_a_batch_of_nothing_valid_costs_nothing() -> None:
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss_sum, num_valid = cross_entropy_sum(logits, torch.full((1, 2), IGNORED), z_loss=1.0)
    assert (loss_sum.item(), num_valid.item()) == (0.0, 0)
    assert torch.autograd.grad(loss_sum, logits)[0].abs().max() == 0


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits = torch.zeros(1, 1, 1000, dtype=torch.bfloat16)
    loss_sum, _ = cross_entropy_sum(logits, torch.zeros(1, 1, dtype=torch.int64), z_loss=0.0)
    assert loss_sum.dtype == torch.float32
    assert loss_sum.item() == pytest.approx(6.907755, abs=1e-5)


def head_case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x_BTD, weight_XD, labels_BT; the first tokens teach nothing, so that with small chunks whole chunks don't."""
    generator = torch.Generator().manual_seed(1)
    x_BTD = torch.randn(ROWS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    weight_XD = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64)
    labels_BT = torch.randint(0, VOCAB, (ROWS, TOKENS), generator=generator)
    labels_BT[0, :4] = labels_BT[1, 3] = IGNORED
    return x_BTD.to(dtype).requires_grad_(), weight_XD.to(dtype).requires_grad_(), labels_BT


def plain(x_BTD: Tensor, weight_XD: Tensor, labels_BT: Tensor, z_loss: float) -> list[Tensor]:
    """The loss with all logits at once, its cross-entropy, its z-loss, and its gradients for x and the weight."""
    loss, cross_entropy = (cross_entropy_sum(F.linear(x_BTD, weight_XD), labels_BT, weight)[0] for weight in (z_loss, 0.0))
    return [loss.detach(), cross_entropy.detach(), (loss - cross_entropy).detach(), *torch.autograd.grad(loss, [x_BTD, weight_XD])]


def chunked(x_BTD: Tensor, weight_XD: Tensor, labels_BT: Tensor, z_loss: float, chunk_tokens: int) -> list[Tensor]:
    loss, parts = head_loss_sum(x_BTD, weight_XD, labels_BT, z_loss=z_loss, chunk_tokens=chunk_tokens, tp=None)
    assert not parts.requires_grad
    return [loss.detach(), *parts, *torch.autograd.grad(loss, [x_BTD, weight_XD])]


def distance(ours: Tensor, exact: Tensor) -> float:
    """Relative L2."""
    return ((ours.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-9)).item()


@pytest.mark.parametrize(("dtype", "gate"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("chunk_tokens", [1, 2, 7, 22, 1000])
def test_in_chunks_it_is_the_same_loss_with_the_same_gradients(dtype: torch.dtype, gate: float, z_loss: float, chunk_tokens: int) -> None:
    case = head_case(dtype)
    for ours, exact in zip(chunked(*case, z_loss, chunk_tokens), plain(*case, z_loss), strict=True):
        assert ours.dtype == exact.dtype
        assert distance(ours, exact) < gate


def test_it_can_be_scaled_and_walked_back_again() -> None:
    x_BTD, weight_XD, labels_BT = head_case(torch.float64)
    loss, _ = head_loss_sum(x_BTD, weight_XD, labels_BT, z_loss=0.1, chunk_tokens=4, tp=None)
    once = torch.autograd.grad(loss / 17, [x_BTD, weight_XD], retain_graph=True)
    again = torch.autograd.grad(loss / 17, [x_BTD, weight_XD])
    for first, second, exact in zip(once, again, plain(x_BTD, weight_XD, labels_BT, 0.1)[3:], strict=True):
        torch.testing.assert_close(first, exact / 17, rtol=1e-12, atol=1e-14)
        assert torch.equal(first, second)


def test_in_chunks_a_batch_of_nothing_valid_costs_nothing() -> None:
    x_BTD, weight_XD, labels_BT = head_case(torch.float32)
    for number in chunked(x_BTD, weight_XD, labels_BT.fill_(IGNORED), 1.0, 4):
        assert number.abs().max() == 0


def test_in_chunks_extreme_logits_stay_finite() -> None:
    x_BTD, weight_XD, labels_BT = head_case(torch.float32)
    with torch.no_grad():
        x_BTD *= 1e4
    for ours, exact in zip(chunked(x_BTD, weight_XD, labels_BT, 1e-5, 4), plain(x_BTD, weight_XD, labels_BT, 1e-5), strict=True):
        assert ours.isfinite().all()
        assert distance(ours, exact) < 1e-5


def test_bf16_gradients_are_summed_over_the_chunks_in_fp32() -> None:
    generator = torch.Generator().manual_seed(2)
    x_BTD = torch.randn(1, 512, 32, generator=generator).bfloat16().requires_grad_()
    weight_XD = (torch.randn(VOCAB, 32, generator=generator) / 4).bfloat16().requires_grad_()
    labels_BT = torch.randint(0, VOCAB, (1, 512), generator=generator)
    exact = plain(x_BTD.detach().float().requires_grad_(), weight_XD.detach().float().requires_grad_(), labels_BT, 1e-2)
    in_chunks, at_once = chunked(x_BTD, weight_XD, labels_BT, 1e-2, 8), plain(x_BTD, weight_XD, labels_BT, 1e-2)

    assert [number.dtype for number in in_chunks] == [torch.float32] * 3 + [torch.bfloat16] * 2
    for ours, theirs, gate in zip(in_chunks, exact, [1e-4, 1e-4, 1e-2, 1e-2, 1e-2], strict=True):
        assert distance(ours, theirs) < gate
    assert distance(in_chunks[4], exact[4]) < 1.02 * distance(at_once[4], exact[4])


class Watch(TorchDispatchMode):
    """Remembers the largest tensor that was made, and how many matrices were multiplied."""

    largest, num_products = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.largest = max(self.largest, *(x.numel() for x in torch.utils._pytree.tree_leaves(out) if isinstance(x, Tensor)), 0)
        self.num_products += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return out


def test_the_full_logits_never_exist() -> None:
    case = head_case(torch.float32)
    with Watch() as watch:
        chunked(*case, 0.1, 7)
    assert watch.largest == 7 * VOCAB
    assert watch.num_products == 3 * 4  # four chunks: the logits, and the gradients of x and of the weight


def test_without_gradients_only_the_logits_are_computed() -> None:
    x_BTD, weight_XD, labels_BT = head_case(torch.float32)
    expected = plain(x_BTD, weight_XD, labels_BT, 0.1)[0]
    with torch.no_grad(), Watch() as watch:
        loss, _ = head_loss_sum(x_BTD, weight_XD, labels_BT, z_loss=0.1, chunk_tokens=7, tp=None)
    assert watch.num_products == 4
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, on tracing any autograd.Function
def test_a_compiled_caller_gets_the_same() -> None:
    case = head_case(torch.float32)
    compiled = torch.compile(lambda *args: head_loss_sum(*args, z_loss=0.1, chunk_tokens=7, tp=None), backend="eager")
    loss, parts = compiled(*case)
    for ours, exact in zip([loss.detach(), *parts, *torch.autograd.grad(loss, case[:2])], plain(*case, 0.1), strict=True):
        assert distance(ours, exact) < 1e-5


def test_ranks_that_share_an_odd_vocabulary_get_the_loss_of_one(tmp_path: Path) -> None:
    run_in_world(2, check_vocabulary_parallel, tmp_path / "world")


def check_vocabulary_parallel(directory: Path) -> None:
    tp = init_device_mesh("cpu", (dist.get_world_size(),))
    for dtype, gate in [(torch.float64, 1e-12), (torch.float32, 1e-5)]:
        x_BTD, weight_XD, labels_BT = head_case(dtype)
        exact_loss, *exact_parts, exact_x, exact_weight = plain(x_BTD, weight_XD, labels_BT, 0.3)
        rows = slice(*[-(-VOCAB // tp.size()) * (tp.get_local_rank() + step) for step in (0, 1)])
        my_weight = weight_XD.detach()[rows].requires_grad_()
        loss, parts = head_loss_sum(x_BTD, my_weight, labels_BT, z_loss=0.3, chunk_tokens=7, tp=tp)
        partial_x, grad_weight = torch.autograd.grad(loss, [x_BTD, my_weight])
        dist.all_reduce(partial_x)
        assert distance(loss, exact_loss) < gate
        assert distance(parts, torch.stack(exact_parts)) < gate
        assert distance(partial_x, exact_x) < gate
        assert distance(grad_weight, exact_weight[rows]) < gate
