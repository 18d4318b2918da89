"""The fused layers at the 7B's sizes on a GPU, against their definitions in fp64 there; as operators; compiled."""

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor

from model.documents import Documents, build_documents
from model.kernels.conv import definition as conv_definition
from model.kernels.conv import operator as conv_operator
from model.kernels.gated_norm import definition as gated_norm_definition
from model.kernels.gated_norm import operator as gated_norm_operator
from model.kernels.gates import definition as gates_definition
from model.kernels.gates import operator as gates_operator

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's own
]
NUM_TOKENS, NUM_HEADS, KEY_DIM, VALUE_DIM = 8192, 30, 96, 192
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-3}
Layer = Callable[..., Tensor | tuple[Tensor, ...]]


def noise(*shape: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").to(dtype)


def packed(num_tokens: int) -> Documents:
    starts = [start for start in (0, 1, 2, 4, 9, 500, 511, 512, 513, 8191) if start < num_tokens]
    return build_documents(torch.tensor([*starts, num_tokens]), num_rows=1, num_tokens=num_tokens, device=torch.device("cuda"))


def with_gradients(layer: Layer, inputs: list[Tensor]) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    result = layer(*inputs)
    outs = result if isinstance(result, tuple) else (result,)
    waves = [torch.linspace(-9e3, 9e3, out.numel(), device="cuda").cos().view(out.shape).bfloat16().to(out.dtype) for out in outs]
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, inputs, waves)]


def assert_agrees(ours: Layer, definition: Layer, inputs: list[Tensor], *, tolerance: float | None = None) -> None:
    found, again = with_gradients(ours, inputs), with_gradients(ours, inputs)
    exact = with_gradients(definition, [x.double() for x in inputs])
    for index, (a, b, c) in enumerate(zip(found, again, exact, strict=True)):
        assert torch.equal(a, b), f"tensor {index} differs from run to run"
        distance = ((a.double() - c).norm() / c.norm()).item()
        assert distance < (tolerance or TOLERANCE[a.dtype]), f"tensor {index} is {distance:.1e} off"


@pytest.fixture(autouse=True)
def _nothing_unwritten_passes():
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    yield
    torch.use_deterministic_algorithms(False)


def convolution_of(kernel: ModuleType, documents: Documents | None, head_dim: int | None) -> Layer:
    """The operator's, or the definition's."""
    position_BT = None if documents is None else documents.position_BT
    if head_dim is None:
        return partial(kernel.conv_silu, position_BT=position_BT)
    return partial(kernel.conv_silu_norm, position_BT=position_BT, head_dim=head_dim, scale=head_dim**-0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 3, 65, 1000, NUM_TOKENS])
@pytest.mark.parametrize("head_dim", [KEY_DIM, None, 32, 48, 80, 112, 128, 256])
def test_convolutions(head_dim: int | None, num_tokens: int, is_packed: bool, dtype: torch.dtype) -> None:
    documents, channels = packed(num_tokens) if is_packed else None, NUM_HEADS * (head_dim or VALUE_DIM)
    inputs = [noise(1, num_tokens, channels, dtype=dtype), noise(channels, 1, 4, dtype=torch.float32)]
    ours, definition = (convolution_of(kernel, documents, head_dim) for kernel in (conv_operator, conv_definition))
    assert_agrees(ours, definition, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("num_tokens", "value_dim"), [(1, 192), (65, 192), (NUM_TOKENS, 192), (65, 80), (65, 112), (65, 128), (65, 256)])
def test_gated_norm(num_tokens: int, value_dim: int, dtype: torch.dtype) -> None:
    shape = (1, num_tokens, NUM_HEADS, value_dim)
    inputs = [noise(*shape, dtype=dtype), noise(*shape, dtype=dtype, seed=1), noise(value_dim, dtype=torch.float32) + 1]

    ours, definition = (partial(kernel.gated_norm, eps=1e-5) for kernel in (gated_norm_operator, gated_norm_definition))
    assert_agrees(ours, definition, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("num_tokens", [1, 65, NUM_TOKENS])
def test_gates(num_tokens: int, dtype: torch.dtype) -> None:
    inputs = [noise(1, num_tokens, NUM_HEADS, dtype=dtype, seed=seed) * 9 for seed in (1, 2)]
    inputs += [noise(NUM_HEADS, dtype=torch.float32, seed=seed) for seed in (3, 4)]
    assert_agrees(gates_operator.decay_and_beta, gates_definition.decay_and_beta, inputs)


def test_each_is_an_operator_as_torch_wants_it() -> None:
    def needs_gradients(*inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(x.requires_grad_() for x in inputs)

    x_BTC, weight_C1W = needs_gradients(noise(1, 70, 192), noise(192, 1, 4))
    torch.library.opcheck(torch.ops.braid.causal_conv, (x_BTC, weight_C1W, packed(70).position_BT, 96, 1.0))
    torch.library.opcheck(torch.ops.braid.causal_conv, (x_BTC, weight_C1W, None, None, 1.0))
    heads = needs_gradients(noise(1, 70, 3, 192), noise(1, 70, 3, 192), noise(192))
    torch.library.opcheck(torch.ops.braid.gated_norm, (*heads, 1e-5))
    gates = needs_gradients(noise(1, 70, 30), noise(1, 70, 30), *noise(2, 30, dtype=torch.float32).unbind())
    torch.library.opcheck(torch.ops.braid.gates, gates)


def test_compiled_in_one_graph_they_give_the_same() -> None:
    def layer(x_BTC: Tensor, weight_C1W: Tensor, a_BTN: Tensor, vector_N: Tensor, weight_K: Tensor) -> tuple[Tensor, ...]:
        q_BTC = convolution_of(conv_operator, documents, 96)(x_BTC, weight_C1W)
        v_BTC = convolution_of(conv_operator, documents, None)(x_BTC, weight_C1W)
        q_BTNK, v_BTNK = (x.unflatten(-1, (-1, 96)) for x in (q_BTC, v_BTC))
        return gated_norm_operator.gated_norm(q_BTNK, v_BTNK, weight_K, eps=1e-5), *gates_operator.decay_and_beta(
            a_BTN, a_BTN, vector_N, vector_N
        )

    documents = packed(600)
    inputs = [noise(1, 600, 288), noise(288, 1, 4), noise(1, 600, 3), noise(3, dtype=torch.float32), noise(96)]
    for ours, compiled in zip(with_gradients(layer, inputs), with_gradients(torch.compile(layer, fullgraph=True), inputs), strict=True):
        torch.testing.assert_close(compiled, ours, rtol=2e-2, atol=2e-2)
