"""Runs the fused layers' Triton kernels in Triton's interpreter on the CPU against their definitions in fp64; prints what is off.

A process of its own, because Triton decides at import whether it interprets. TRITON_INTERPRET=1 must be set. Arguments: names of
CHECKS to run. Fills what `torch.empty` gives with NaN, so that nothing unwritten passes.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from model.documents import Documents, build_documents
from model.kernels.conv import definition as conv_definition
from model.kernels.conv import operator as conv_operator
from model.kernels.gated_norm import definition as gated_norm_definition
from model.kernels.gated_norm import operator as gated_norm_operator
from model.kernels.gates import definition as gates_definition
from model.kernels.gates import operator as gates_operator
from tests.model.interpreter import print_failures

Layer = Callable[..., Tensor | tuple[Tensor, ...]]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 5e-3}
"""rel-L2; the interpreter rounds to bf16 towards zero, twice as far off as a GPU."""
LENGTHS = (0, 1, 3, 63, 65)
SHORT = (1, 2, 3, 5)
"""Not all of the convolution's 4 taps lie in the row."""


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def packed(num_tokens: int) -> Documents:
    """Two rows, of documents of 1, 2, 5, … tokens and of one."""
    lengths = itertools.cycle((1, 2, 5, 1, 1, 7, 30))
    starts = [start for start in itertools.accumulate(itertools.islice(lengths, num_tokens), initial=0) if start < num_tokens]
    return build_documents(
        torch.tensor([*starts, num_tokens, 2 * num_tokens]), num_rows=2, num_tokens=num_tokens, device=torch.device("cpu")
    )


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


def convolution_and_norm() -> Iterator[str]:
    wide, narrow = torch.float32, torch.bfloat16
    for num_tokens, head_dim, num_heads, is_packed, dtype in [
        (1, 96, 1, True, wide),
        (65, 96, 1, True, wide),
        (63, 96, 1, True, narrow),
        (65, 96, 1, False, wide),
        (5, 48, 1, True, wide),
        (300, 128, 1, True, wide),
        (4, 256, 1, True, wide),
        *((num_tokens, 32, 2 if num_tokens == 5 else 1, True, narrow) for num_tokens in SHORT),
    ]:
        name, position_BT = (
            f"T {num_tokens}, K {head_dim}, packed {is_packed}, {dtype}",
            packed(num_tokens).position_BT if is_packed else None,
        )
        settings = {"position_BT": position_BT, "head_dim": head_dim, "scale": head_dim**-0.5}
        ours, definition = (partial(of.conv_silu_norm, **settings) for of in (conv_operator, conv_definition))
        yield from compare(name, ours, definition, convolution_inputs(num_tokens, num_heads * head_dim, dtype))


def convolution_inputs(num_tokens: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    return [noise(2, num_tokens, channels, dtype=dtype), noise(channels, 1, 4, dtype=dtype)]


def convolution() -> Iterator[str]:
    wide, narrow = torch.float32, torch.bfloat16
    cases = [(num_tokens, 64, False, wide) for num_tokens in (0, 1, 65)] + [(num_tokens, 64, True, narrow) for num_tokens in SHORT]
    for num_tokens, channels, is_packed, dtype in [*cases, (65, 64, True, wide), (65, 48, True, wide), (4, 2, False, wide)]:
        name, position_BT = (
            f"T {num_tokens}, C {channels}, packed {is_packed}, {dtype}",
            packed(num_tokens).position_BT if is_packed else None,
        )
        ours, definition = (partial(of.conv_silu, position_BT=position_BT) for of in (conv_operator, conv_definition))
        yield from compare(name, ours, definition, convolution_inputs(num_tokens, channels, dtype))


def gates() -> Iterator[str]:
    for num_tokens, num_heads, dtype in itertools.product(LENGTHS, (30, 70), (torch.float32, torch.bfloat16)):
        a_BTN, b_BTN = (noise(2, num_tokens, num_heads, dtype=dtype, seed=seed) for seed in (1, 2))
        A_log_N, dt_bias_N = noise(num_heads, seed=3), noise(num_heads, seed=4) - 4
        name = f"T {num_tokens}, N {num_heads}, {dtype}"
        yield from compare(name, gates_operator.decay_and_beta, gates_definition.decay_and_beta, [a_BTN, b_BTN, A_log_N, dt_bias_N])
    far = torch.tensor([-1e4, -90.0, -30.0, -17.0, 0.0, 15.0, 19.9, 20.1, 90.0, 1e4]).view(1, 10, 1)
    inputs = [far, far.clone(), torch.zeros(1), torch.zeros(1)]
    for out in with_gradients(gates_operator.decay_and_beta, inputs):
        if not out.isfinite().all():
            yield f"gates far from 0: {out.flatten().tolist()}"
    yield from compare("gates far from 0", gates_operator.decay_and_beta, gates_definition.decay_and_beta, inputs)


def gated_norm() -> Iterator[str]:
    ours, definition = (partial(of.gated_norm, eps=1e-5) for of in (gated_norm_operator, gated_norm_definition))
    wide, narrow = torch.float32, torch.bfloat16
    cases = [(length, 192, wide, wide) for length in LENGTHS]
    cases += [(65, 80, wide, wide), (4, 112, wide, wide), (3, 256, wide, wide), (2, 6, wide, wide)]
    narrow_cases = [(3, 192, wide, narrow), *((length, 192, narrow, narrow) for length in (1, 3, 65)), (65, 80, narrow, narrow)]
    for num_tokens, value_dim, x_dtype, gate_dtype in [*cases, *narrow_cases]:
        shape = (2, num_tokens, 3, value_dim)
        inputs = [noise(*shape, dtype=x_dtype), noise(*shape, dtype=gate_dtype, seed=1), noise(value_dim) + 1]
        name = f"T {num_tokens}, V {value_dim}, {x_dtype}, gate {gate_dtype}"
        yield from compare(name, ours, definition, inputs)


def views() -> Iterator[str]:
    """Inputs of other strides, gradients of one number, at an offset into their storage; then the operators by PyTorch's rules."""

    def transposed(*shape: int, seed: int = 0) -> Tensor:
        return noise(1 + shape[0], *reversed(shape[1:]), seed=seed)[1:].transpose(1, -1).requires_grad_()

    x_BTC, weight_C1W, position_BT = transposed(1, 7, 32), transposed(32, 1, 4), packed(14).position_BT[:1, ::2]
    x_BTNV, gate_BTNV, weight_V = transposed(2, 3, 2, 16), transposed(2, 3, 2, 16, seed=1), noise(32)[::2].requires_grad_()
    a_BTN, b_BTN = transposed(2, 7, 3), transposed(2, 7, 3, seed=1)
    A_log_N, dt_bias_N = (noise(6, seed=seed)[::2].requires_grad_() for seed in (3, 4))
    for operator, inputs in (
        (torch.ops.braid.causal_conv.default, (x_BTC, weight_C1W, position_BT, 32, 1.0)),
        (torch.ops.braid.gated_norm.default, (x_BTNV, gate_BTNV, weight_V, 1e-5)),
        (torch.ops.braid.gates.default, (a_BTN, b_BTN, A_log_N, dt_bias_N)),
    ):
        torch.library.opcheck(operator, inputs, test_utils=("test_faketensor", "test_aot_dispatch_dynamic"))
        plain = tuple(x.detach().contiguous().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs)
        if not all(itertools.starmap(torch.equal, zip(of_sums(operator, inputs), of_sums(operator, plain), strict=True))):
            yield f"{operator}: other numbers from views"


def of_sums(operator: Layer, inputs: tuple[object, ...]) -> tuple[Tensor, ...]:
    result = operator(*inputs)
    outs = result if isinstance(result, tuple) else (result,)
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    return (*outs, *torch.autograd.grad([out.sum() for out in outs], leaves))


CHECKS = {check.__name__: check for check in (convolution_and_norm, convolution, gates, gated_norm, views)}


if __name__ == "__main__":
    print_failures(CHECKS)
