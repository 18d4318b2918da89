"""fla's kernels behind our operator, against the step-by-step definition in fp64 on the same GPU."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.documents import Documents, build_documents
from model.kernels.delta_rule import definition
from model.kernels.delta_rule.operator import gated_delta_rule

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's and fla's own
]
NUM_ROWS, NUM_HEADS = 2, 4
DTYPES = [(torch.float32, 1e-2), (torch.bfloat16, 3e-2)]
"""With the distance allowed: TF32 products keep 10 bits of mantissa, bf16 7."""


def inputs(num_tokens: int, key_dim: int, value_dim: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """q, k, v in `dtype` as under mixed precision; the gates stay fp32."""
    generator = torch.Generator("cuda").manual_seed(num_tokens)

    def noise(*shape: int) -> Tensor:
        return torch.randn(NUM_ROWS, num_tokens, NUM_HEADS, *shape, generator=generator, device="cuda")

    return {
        "q": (F.normalize(noise(key_dim), dim=-1) * key_dim**-0.5).to(dtype).requires_grad_(),
        "k": F.normalize(noise(key_dim), dim=-1).to(dtype).requires_grad_(),
        "v": noise(value_dim).to(dtype).requires_grad_(),
        "log_decay": (-F.softplus(noise() - 2)).requires_grad_(),
        "beta": (2 * noise().sigmoid()).requires_grad_(),
    }


def packed(starts: tuple[tuple[int, ...], tuple[int, ...]], num_tokens: int) -> Documents:
    offsets = torch.tensor([row * num_tokens + start for row, starts in enumerate(starts) for start in starts] + [NUM_ROWS * num_tokens])
    return build_documents(offsets, num_rows=NUM_ROWS, num_tokens=num_tokens, device=torch.device("cuda"))


def forward_and_gradients(delta_rule: Callable[..., Tensor], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    out = delta_rule(**parts)
    weight = torch.linspace(-1, 1, out.numel(), device="cuda").cos().view_as(out).to(out.dtype)
    return {"out": out.detach()} | dict(zip(parts, torch.autograd.grad((out * weight).sum(), list(parts.values())), strict=True))


def assert_close(ours: dict[str, Tensor], exact: dict[str, Tensor], tolerance: float) -> None:
    for name in exact:
        if exact[name].norm() > 0:  # rows of one token have nothing to forget
            distance = ((ours[name].double() - exact[name]).norm() / exact[name].norm()).item()
            assert distance < tolerance, f"{name} is {distance:.1e} off"


def assert_agrees_with_the_definition(parts: dict[str, Tensor], documents: Documents | None, tolerance: float) -> None:
    exact_parts = {name: x.detach().double().requires_grad_() for name, x in parts.items()}
    ours = forward_and_gradients(partial(gated_delta_rule, documents=documents, backend="fla"), parts)
    assert_close(ours, forward_and_gradients(partial(definition.gated_delta_rule, documents=documents), exact_parts), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("key_dim", "value_dim"), [(96, 192), (128, 256), (32, 64)])
@pytest.mark.parametrize("num_tokens", [64, 200, 1])
def test_fla_agrees_with_the_definition(num_tokens: int, key_dim: int, value_dim: int, dtype: torch.dtype, tolerance: float) -> None:
    assert_agrees_with_the_definition(inputs(num_tokens, key_dim, value_dim, dtype), None, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("starts", [((0,), (0,)), ((0, 1, 2, 63, 64, 150, 199), (0, 100))], ids=["whole rows", "odd documents"])
def test_fla_starts_each_document_from_nothing(starts: tuple, dtype: torch.dtype, tolerance: float) -> None:
    assert_agrees_with_the_definition(inputs(200, 96, 192, dtype), packed(starts, 200), tolerance)


def test_a_new_batch_of_documents_costs_no_wait_for_the_gpu() -> None:
    def step(documents: Documents, parts: dict[str, Tensor]) -> None:
        forward_and_gradients(partial(gated_delta_rule, documents=documents, backend="fla"), parts)

    step(packed(((0, 70), (0, 3)), 200), inputs(200, 96, 192, torch.bfloat16))  # compiles the kernels
    documents, parts = packed(((0, 80), (0, 3)), 200), inputs(200, 96, 192, torch.bfloat16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(documents, parts)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_step_is_the_eager_one_however_the_rows_are_packed() -> None:
    def rule(documents: Documents | None, parts: dict[str, Tensor]) -> Tensor:
        return gated_delta_rule(**parts, documents=documents, backend="fla")

    compiled = torch.compile(rule, fullgraph=True)
    for documents in (None, packed(((0, 70), (0, 3)), 200), packed(((0,), (0, 3, 4)), 200), packed(((0,), (0, 9, 50, 60)), 200)):
        parts = inputs(200, 96, 192, torch.bfloat16)
        eager = forward_and_gradients(lambda documents=documents, **parts: rule(documents, parts), parts)
        assert_close(forward_and_gradients(lambda documents=documents, **parts: compiled(documents, parts), parts), eager, 1e-3)


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_operator_keeps_pytorchs_rules(is_packed: bool) -> None:
    documents = packed(((0, 70), (0, 3)), 200)
    offsets = (documents.offsets_P, documents.offsets_cpu_P) if is_packed else (None, None)
    parts = inputs(200, 96, 192, torch.bfloat16)
    torch.library.opcheck(torch.ops.braid.delta_rule_fla.default, (*parts.values(), *offsets), rtol=1e-2, atol=1e-2)
