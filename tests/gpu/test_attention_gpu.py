"""Windows and documents by flash attention, against a dense mask in fp64 on the same GPU."""

import pytest
import torch
from torch import Tensor

from model.documents import Documents, build_documents
from model.kernels.attention.operator import attend

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's own
]
NUM_ROWS, NUM_TOKENS, NUM_HEADS = 2, 300, 4
CASES = [(64, False), (1, False), (None, True), (64, True), (1000, True)]
"""(window, whether the rows are packed)"""


def packed(*starts: tuple[int, ...]) -> Documents:
    offsets = [row * NUM_TOKENS + start for row, row_starts in enumerate(starts) for start in row_starts]
    ends = torch.tensor([*offsets, NUM_ROWS * NUM_TOKENS])
    return build_documents(ends, num_rows=NUM_ROWS, num_tokens=NUM_TOKENS, device=torch.device("cuda"))


def inputs(head_dim: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(head_dim)
    parts = torch.randn(3, NUM_ROWS, NUM_TOKENS, NUM_HEADS, head_dim, generator=generator, device="cuda").to(dtype)
    return [part.requires_grad_() for part in parts]


def with_gradients(parts: list[Tensor], window: int | None, documents: Documents | None) -> list[Tensor]:
    return gradients_too(attend(q_BTNK=parts[0], k_BTNK=parts[1], v_BTNK=parts[2], window=window, documents=documents), parts)


def gradients_too(out: Tensor, parts: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-3, 3, out.numel(), device="cuda").cos().view_as(out).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), parts)]


def assert_close(ours: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Of its own norm, or where nothing is left of a gradient, as of q's where a token sees itself alone, of 1e-3 of the largest's."""
    largest = max(b.double().norm().item() for b in exact)
    for name, a, b in zip(("out", "q", "k", "v"), ours, exact, strict=True):
        distance = ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-3 * largest)).item()
        assert distance < tolerance, f"{name} is {distance:.1e} off"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("head_dim", [48, 64, 80, 128])
@pytest.mark.parametrize(("window", "is_packed"), CASES)
def test_a_token_sees_its_window_of_its_own_document(window: int | None, is_packed: bool, head_dim: int, dtype: torch.dtype) -> None:
    documents = packed((0, 1, 2, 120, 299), (0, 200)) if is_packed else None
    parts = inputs(head_dim, dtype)
    exact = with_gradients([part.detach().double().requires_grad_() for part in parts], window, documents)
    assert_close(with_gradients(parts, window, documents), exact, 2e-2)


def test_a_compiled_step_is_the_eager_one_however_the_rows_are_packed() -> None:
    def rule(parts: list[Tensor], documents: Documents | None) -> Tensor:
        return attend(q_BTNK=parts[0], k_BTNK=parts[1], v_BTNK=parts[2], window=64, documents=documents)

    compiled = torch.compile(rule, fullgraph=True)
    for documents in (None, packed((0,), (0, 10)), packed((0, 1, 50), (0,)), packed((0, 200), (0, 20, 280, 281))):
        parts = inputs(128, torch.bfloat16)
        assert_close(gradients_too(compiled(parts, documents), parts), gradients_too(rule(parts, documents), parts), 1e-3)
