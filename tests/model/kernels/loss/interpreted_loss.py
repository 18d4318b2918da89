"""Runs the loss's Triton kernels in Triton's interpreter on the CPU against the loss's definition in fp64; prints what is off.

A process of its own, because Triton decides at import whether it interprets. TRITON_INTERPRET=1 must be set. Arguments: names of
CHECKS to run. Fills what `torch.empty` gives with NaN, so that nothing unwritten passes.
"""

import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from model.kernels.loss import operator
from model.layers import head as loss_module
from model.layers.head import IGNORED, cross_entropy_sum, head_loss_sum
from tests.model.gloo_world import run_in_world
from tests.model.kernels.interpreter import print_failures

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""rel-L2 of a gradient; the interpreter rounds to bf16 towards zero. The loss is always fp32."""
TILE = 4096
"""Elements of bf16 that a program takes at once; of fp32 it is half."""
Z_LOSS = 0.02


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def labels_for(num_rows: int, vocabulary: int) -> Tensor:
    """The first row's is the vocabulary's first, the last row's its last."""
    labels_C = torch.randint(vocabulary, (num_rows,), generator=torch.Generator().manual_seed(vocabulary))
    labels_C[0], labels_C[-1] = 0, vocabulary - 1
    return labels_C


def fenced(logits_CX: Tensor, padding: int) -> Tensor:
    """The same numbers with NaN before, between and behind the rows."""
    num_rows, vocabulary = logits_CX.shape
    around = torch.full((num_rows + 2, vocabulary + padding), torch.nan, dtype=logits_CX.dtype)
    inside = around[1:-1, :vocabulary]
    inside.copy_(logits_CX)
    return inside


def fence_of(inside: Tensor) -> Tensor:
    num_rows, vocabulary = inside.shape
    around = inside.as_strided((num_rows + 2, inside.stride(0)), (inside.stride(0), 1), 0).clone()
    around[1:-1, :vocabulary] = torch.nan
    return around


def definition(logits_CX: Tensor, labels_C: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    exact = logits_CX.double().requires_grad_()
    loss, cross_entropy = (cross_entropy_sum(exact, labels_C, weight)[0] for weight in (z_loss, 0.0))
    return torch.stack([cross_entropy, loss - cross_entropy]).detach(), torch.autograd.grad(loss, exact)[0]


def fused(logits_CX: Tensor, labels_C: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """The labels are this rank's own rows, or IGNORED."""
    loss, grad_CX = operator.loss_and_gradient(logits_CX, labels_C, labels_C != IGNORED, z_loss, None, True)
    assert grad_CX is not None
    return loss, grad_CX


def distance(ours: Tensor, exact: Tensor) -> float:
    return ((ours.double() - exact).norm() / exact.norm().clamp(min=1e-6)).item()


def compare(name: str, found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> Iterator[str]:
    """Cross-entropy and z-loss, each by itself, and the gradient."""
    pairs = zip(("cross-entropy", "z-loss", "gradient"), (*found[0], found[1]), (*exact[0], exact[1]), strict=True)
    for tensor, ours, theirs in pairs:
        if not distance(ours, theirs) < TOLERANCE[ours.dtype]:  # NaN too
            yield f"{name}: {tensor} is {distance(ours, theirs):.1e} off"


def values() -> Iterator[str]:
    for vocabulary, dtype, z_loss in itertools.product(
        (1, 37, 1003, TILE // 2, TILE, 5000, 2 * TILE + 8), (torch.float32, torch.bfloat16), (0.0, Z_LOSS)
    ):
        logits_CX, labels_C = noise(5, vocabulary).to(dtype), labels_for(5, vocabulary)
        ours = fenced(logits_CX, padding=16 if vocabulary % 16 == 0 else 5)
        found, name = fused(ours, labels_C, z_loss), f"X {vocabulary}, {dtype}, z_loss {z_loss}"
        yield from compare(name, found, definition(logits_CX, labels_C, z_loss))
        if found[1] is not ours:
            yield f"{name}: the gradient is not where the logits were"
        if not fence_of(ours).isnan().all():
            yield f"{name}: something outside the rows was written"


def ignored() -> Iterator[str]:
    """Rows that teach nothing are not even read: what is NaN there reaches neither the loss nor the gradient."""
    for dtype in TOLERANCE:
        logits_CX, labels_C = noise(6, 5000).to(dtype), labels_for(6, 5000)
        labels_C[torch.tensor([0, 3])] = IGNORED
        exact = definition(logits_CX, labels_C, Z_LOSS)
        logits_CX[labels_C == IGNORED] = torch.nan
        found = fused(logits_CX, labels_C, Z_LOSS)
        yield from compare(str(dtype), found, exact)
        if found[1][labels_C == IGNORED].any():
            yield f"{dtype}: a row that is ignored has a gradient"
        nothing = fused(torch.full((2, 50), torch.nan, dtype=dtype), torch.full((2,), IGNORED), Z_LOSS)
        if any(x.any() for x in nothing):
            yield f"{dtype}: a chunk of nothing valid costs something"


def other_ranks_rows() -> Iterator[str]:
    """A target before or behind this rank's rows adds no logit and takes nothing from the gradient."""
    for dtype in TOLERANCE:
        logits_CX = noise(4, 5000).to(dtype)
        target_C = torch.tensor([-1, 5000, -4000, 9000])
        wide = logits_CX.double().requires_grad_()
        log_sum_exp_C = wide.logsumexp(-1)
        exact = torch.stack([log_sum_exp_C, Z_LOSS * log_sum_exp_C.square()]).sum(-1)
        found = operator.loss_and_gradient(fenced(logits_CX, 7), target_C, torch.ones(4, dtype=torch.bool), Z_LOSS, None, True)
        yield from compare(str(dtype), found, (exact.detach(), torch.autograd.grad(exact.sum(), wide)[0]))


def extremes() -> Iterator[str]:
    """Logits whose exponentials overflow, and logits that rule a token out."""
    for dtype, (name, change) in itertools.product(TOLERANCE, EXTREMES.items()):
        logits_CX, labels_C = noise(3, 5000), torch.tensor([0, 4, 4998])
        change(logits_CX)
        logits_CX = logits_CX.to(dtype)
        exact = definition(logits_CX, labels_C, 1e-4)
        yield from compare(f"{name}, {dtype}", fused(logits_CX.clone(), labels_C, 1e-4), exact)


EXTREMES = {
    "one of 1e4": lambda x: x[:, 4999].fill_(1e4),
    "the first of 1e4": lambda x: x[:, 0].fill_(1e4),
    "all about -1e4": lambda x: x.sub_(1e4),
    "all about 1e4": lambda x: x.add_(1e4),
    "±1e4": lambda x: x.copy_(x.sign() * 1e4),
    "rising": lambda x: x.copy_(torch.linspace(-1e4, 1e4, 5000)),
    "falling": lambda x: x.copy_(torch.linspace(1e4, -1e4, 5000)),
    "whole tiles of -inf": lambda x: x[:, 8:4990].fill_(-torch.inf),
}


def without_gradient() -> Iterator[str]:
    logits_CX, labels_C = noise(3, 5000), labels_for(3, 5000)
    before = logits_CX.clone()
    loss, nothing = operator.loss_and_gradient(logits_CX, labels_C, labels_C != IGNORED, Z_LOSS, None, False)
    yield from compare("the loss alone", (loss, torch.ones(())), (definition(before, labels_C, Z_LOSS)[0], torch.ones(())))
    if nothing is not None or not torch.equal(logits_CX, before):
        yield "a gradient that nobody asked for"


def operators() -> Iterator[str]:
    """What they say of themselves, to a compiler too, is true."""
    logits_CX, target_C, is_valid_C = noise(3, 50), torch.tensor([1, -4, 49]), torch.tensor([True, True, False])
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.braid.loss_row_statistics.default, (logits_CX, target_C, is_valid_C), test_utils=tests)
    inputs = (logits_CX, target_C, is_valid_C, noise(3), noise(3))
    torch.library.opcheck(torch.ops.braid.loss_gradient_.default, inputs, test_utils=tests)
    yield from ()


def with_head_and_ranks() -> Iterator[str]:
    """Two ranks share an odd vocabulary, in chunks, of which one has nothing valid."""
    with tempfile.TemporaryDirectory() as directory:
        run_in_world(2, check_ranks, Path(directory) / "world")
    yield from ()


def check_ranks(directory: Path) -> None:
    loss_module.takes_kernels = lambda *x: True  # as on a GPU
    warnings.simplefilter("ignore")
    tp = init_device_mesh("cpu", (dist.get_world_size(),))
    vocabulary, width = 3001, 6
    x_BTD, weight_XD = noise(2, 11, width) / 3, noise(vocabulary, width) / 3
    weight_XD[1234] *= 1e3  # the largest logits are only on the first rank
    labels_BT = labels_for(22, vocabulary).view(2, 11)
    labels_BT[0, 2:] = IGNORED
    exact_x, exact_weight = x_BTD.double().requires_grad_(), weight_XD.double().requires_grad_()
    exact, _ = cross_entropy_sum(F.linear(exact_x, exact_weight), labels_BT, Z_LOSS)
    exact_grad_x, exact_grad_weight = torch.autograd.grad(exact, [exact_x, exact_weight])

    rows = slice(*[-(-vocabulary // 2) * (tp.get_local_rank() + step) for step in (0, 1)])
    x_BTD, my_weight = x_BTD.requires_grad_(), weight_XD[rows].clone().requires_grad_()
    loss, _ = head_loss_sum(x_BTD, my_weight, labels_BT, z_loss=Z_LOSS, chunk_tokens=4, tp=tp)
    partial_x, grad_weight = torch.autograd.grad(loss, [x_BTD, my_weight])
    dist.all_reduce(partial_x)

    assert distance(loss.detach(), exact.detach()) < 1e-5
    assert distance(partial_x, exact_grad_x) < 1e-5
    assert distance(grad_weight, exact_grad_weight[rows]) < 1e-5


CHECKS = {
    check.__name__: check for check in (values, ignored, other_ranks_rows, extremes, without_gradient, operators, with_head_and_ranks)
}


if __name__ == "__main__":
    print_failures(CHECKS)
