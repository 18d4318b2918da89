"""How interpreted kernels are compared with their definitions in fp64: inputs, gradients, distances."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Layer = Callable[..., Tensor | tuple[Tensor, ...]]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
"""Largest rel-L2; the interpreter rounds to bf16 towards zero, twice as far off as a GPU."""


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def transposed(*shape: int, seed: int = 0) -> Tensor:
    """A leaf of other strides, at an offset into its storage."""
    return noise(1 + shape[0], *reversed(shape[1:]), seed=seed)[1:].transpose(1, -1).requires_grad_()


def with_gradients(layer: Layer, inputs: list[Tensor]) -> list[Tensor]:
    """Outputs, then the gradient of every input; each output weighted by a fixed wave."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    result = layer(*inputs)
    outs = result if isinstance(result, tuple) else (result,)
    waves = [torch.linspace(-9, 9, out.numel(), dtype=torch.float64).cos().view(out.shape).bfloat16().to(out.dtype) for out in outs]
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, inputs, waves)]


def compare(name: str, ours: Layer, definition: Layer, inputs: list[Tensor]) -> Iterator[str]:
    found = with_gradients(ours, inputs)
    exact = with_gradients(definition, [x.double() for x in inputs])
    for index, (a, b) in enumerate(zip(found, exact, strict=True)):
        distance = ((a.double() - b).norm() / b.norm().clamp(min=1e-6)).item()
        if not distance < TOLERANCE[a.dtype]:  # NaN too
            yield f"{name}: tensor {index} is {distance:.1e} off"


def view_faults(operator: Layer, inputs: tuple[object, ...], *test_utils: str) -> Iterator[str]:
    """Inputs of other strides and gradients of one number give the bits of contiguous ones; the operator keeps PyTorch's rules."""
    torch.library.opcheck(operator, inputs, test_utils=("test_faketensor", "test_aot_dispatch_dynamic", *test_utils))
    plain = tuple(x.detach().contiguous().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs)
    if not all(itertools.starmap(torch.equal, zip(_of_sums(operator, inputs), _of_sums(operator, plain), strict=True))):
        yield f"{operator}: other numbers from views"


def _of_sums(operator: Layer, inputs: tuple[object, ...]) -> tuple[Tensor, ...]:
    result = operator(*inputs)
    outs = result if isinstance(result, tuple) else (result,)
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    return (*outs, *torch.autograd.grad([out.sum() for out in outs], leaves))


def assert_known(outs: Sequence[Tensor], expected: Sequence[Tensor], *, inputs: Sequence[Tensor]) -> None:
    """On the meta device: outputs have the expected shapes and dtypes, gradients those of the inputs."""
    assert [(x.shape, x.dtype) for x in outs] == [(x.shape, x.dtype) for x in expected]
    gradients = torch.autograd.grad(outs, inputs, [torch.empty_like(out) for out in outs])
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in inputs]
