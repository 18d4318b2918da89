"""The small layers at the 7B's sizes on a GPU, against their definitions in fp64 there; as operators; the bits and the memory of each."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from model.declare import Cut, norm_weight
from model.ffn.swiglu.layer import swiglu
from model.kernels.norm import operator as norm_operator
from model.kernels.rotary.definition import rotary_tables
from model.kernels.swiglu import operator as swiglu_operator
from model.layers.norm import FullWidthRMSNorm, RMSNorm
from model.mixers.attention.layer import rotate
from tests.gpu.test_fused_layers_gpu import assert_agrees, noise, with_gradients

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's own
]
NUM_TOKENS, D_MODEL, FFN_WIDTH, NUM_HEADS, HEAD_DIM = 16384, 3840, 11008, 30, 128
DTYPES = [torch.bfloat16, torch.float32]


@pytest.fixture(autouse=True)
def _nothing_unwritten_passes():
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    yield
    torch.use_deterministic_algorithms(False)


def norms(x: Tensor, y: Tensor, weight_D: Tensor) -> tuple[Tensor, ...]:
    weights = {"norm.weight": weight_D, "full.weight": weight_D}
    return torch.func.functional_call(_Norms(x.shape[-1]), weights, (x, y))


class _Norms(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.full = RMSNorm(norm_weight(width, Cut.NOTHING), 1e-6), FullWidthRMSNorm(norm_weight(width, Cut.OUTPUT), 1e-6, None)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return self.norm(x), *self.norm.of_sum(x, y), self.norm.added_to(x, y), self.full(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_tokens", "width"), [(1, D_MODEL), (65, D_MODEL), (NUM_TOKENS, D_MODEL), (300, 64), (3000, 100), (65, 6), (65, 4096), (65, 16384)]
)
def test_norms(num_tokens: int, width: int, dtype: torch.dtype) -> None:
    inputs = [noise(1, num_tokens, width, dtype=dtype, seed=seed) for seed in (1, 2)] + [noise(width, dtype=dtype, seed=3) + 1]
    # Five outputs share x and the weight, and autograd rounds each of four sums to their dtype.
    assert_agrees(norms, norms, inputs, tolerance={torch.float32: 1e-5, torch.bfloat16: 8e-3}[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 65, FFN_WIDTH), (2, 33, 77), (2, NUM_TOKENS // 2, FFN_WIDTH)])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_agrees(swiglu, swiglu, [3 * noise(*shape, dtype=dtype, seed=seed) for seed in (1, 2)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own_positions", [False, True])
@pytest.mark.parametrize(
    ("num_tokens", "num_heads", "head_dim"), [(1, 1, 2), (65, 33, 128), (65, 3, 96), (NUM_TOKENS // 2, NUM_HEADS, HEAD_DIM)]
)
def test_rotation(num_tokens: int, num_heads: int, head_dim: int, own_positions: bool, dtype: torch.dtype) -> None:
    position_BT = torch.arange(2 * num_tokens, device="cuda").view(2, num_tokens)[: 2 if own_positions else 1]
    rotary = rotary_tables(position_BT, head_dim=head_dim, theta=5e5, dtype=torch.float32)
    layer = partial(rotate, rotary=rotary)
    assert_agrees(layer, layer, [noise(2, num_tokens, num_heads, head_dim, dtype=dtype)])


def test_gates_far_from_zero_give_numbers() -> None:
    far = torch.tensor([-3e38, -1e4, -90.0, 0.0, 90.0, 1e4], device="cuda")
    assert all(x.isfinite().all() for x in with_gradients(swiglu, [far, torch.ones_like(far)]))


def test_each_is_an_operator_as_torch_wants_it() -> None:
    x, y, weight_D = (x.requires_grad_() for x in (noise(2, 70, 96), noise(2, 70, 96, seed=1), noise(96)))
    cos, sin = noise(2, 1, 70, 1, 16, dtype=torch.float32).unbind()
    torch.library.opcheck(torch.ops.braid.rms_norm, (x, weight_D, 1e-6))
    torch.library.opcheck(torch.ops.braid.norm_of_sum, (x, y, weight_D, 1e-6))
    torch.library.opcheck(torch.ops.braid.add_norm, (x, y, weight_D, 1e-6))
    torch.library.opcheck(torch.ops.braid.swiglu, (x, y))
    torch.library.opcheck(torch.ops.braid.rotate, (noise(2, 70, 3, 32).requires_grad_(), cos, sin, False))


def tensors_at_the_peak(layer: Callable[..., Tensor], inputs: list[Tensor]) -> float:
    """Most memory of a forward and backward beyond the inputs, in tensors as large as the first."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    torch.autograd.grad(layer(*inputs).sum(), inputs)  # compiles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = layer(*inputs)
    torch.autograd.grad(out, inputs, torch.empty_like(out))
    return (torch.cuda.max_memory_allocated() - before) / inputs[0].nbytes


def test_nothing_is_stored_but_inputs() -> None:
    """Output, its gradient, the inputs' gradients; and the partial sums of the weight's."""
    torch.use_deterministic_algorithms(False)
    norm = partial(norm_operator.rms_norm, eps=1e-6)
    assert tensors_at_the_peak(norm, [noise(1, NUM_TOKENS, D_MODEL), noise(D_MODEL)]) < 3.1
    gates = [noise(1, NUM_TOKENS, FFN_WIDTH, seed=seed) for seed in (1, 2)]
    assert tensors_at_the_peak(swiglu_operator.swiglu, gates) < 4.1


def test_compiled_in_one_graph_they_give_the_same() -> None:
    """There they are plain torch, which the compiler fuses."""
    module = _Norms(288).to("cuda", torch.bfloat16)
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    inputs = [noise(1, 600, 288), noise(1, 600, 288, seed=1)]
    compiled = torch.compile(module, fullgraph=True)
    for eager, fused in zip(with_gradients(module, inputs), with_gradients(compiled, inputs), strict=True):
        torch.testing.assert_close(fused, eager, rtol=3e-2, atol=3e-2)
