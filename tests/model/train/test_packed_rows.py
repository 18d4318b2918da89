"""Several documents in one row: each has the logits that it has alone, and none learns from another."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from model.build import build_model
from model.documents import Documents, build_documents
from model.lm import HybridLM
from tests.model.layout_cases import CPU, MODEL

LENGTHS = ((1, 7, 2, 9), (19,), (3, 1, 1, 14))
"""Of the documents of each row: of one token, shorter and longer than the convolution and the window."""
NUM_TOKENS = 19


@pytest.fixture(scope="module")
def model() -> HybridLM:
    """One layer of each kind in fp64, with weights large enough that everything matters."""
    model = build_model(MODEL, None, device=CPU, seed=3, compute_dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(15)
    return model


def packed(num_tokens: int = NUM_TOKENS) -> Documents:
    ends = torch.tensor([length for row in LENGTHS for length in row]).cumsum(0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
    return build_documents(offsets, num_rows=len(LENGTHS), num_tokens=num_tokens, device=CPU)


def some_tokens() -> Tensor:
    return torch.randint(0, MODEL.vocab_size, (len(LENGTHS), NUM_TOKENS), generator=torch.Generator().manual_seed(0))


def test_a_packed_row_gives_each_document_the_logits_it_has_alone(model: HybridLM) -> None:
    tokens_BT = some_tokens()
    with torch.no_grad():
        together_BTX = model(tokens_BT, packed())
        for row, lengths in enumerate(LENGTHS):
            alone = [model(document.unsqueeze(0))[0] for document in tokens_BT[row].split(list(lengths))]
            torch.testing.assert_close(together_BTX[row], torch.cat(alone), rtol=0, atol=1e-11)
        assert not torch.allclose(model(tokens_BT)[0], together_BTX[0], atol=1e-2), "without documents the row must differ"


def test_no_gradient_crosses_a_boundary(model: HybridLM) -> None:
    """What a document's tokens embed as moves its own loss and no other's."""
    tokens_BT, documents = some_tokens(), packed()
    embedded: list[Tensor] = []
    hook = model.embed.register_forward_hook(lambda _module, _inputs, output: embedded.append(output.requires_grad_()) or output)
    logits_BTX = model(tokens_BT, documents)
    hook.remove()
    starts = documents.offsets_cpu_P.tolist()
    for start, end in pairwise(starts):
        loss = logits_BTX.flatten(0, 1)[start:end].square().sum()
        (grad_BTD,) = torch.autograd.grad(loss, embedded, retain_graph=True)
        of_token = grad_BTD.flatten(0, 1).abs().amax(-1)
        touched = of_token > 1e-13 * of_token.max()  # the gradients of a chunk's decays are sums that cancel but for rounding
        assert touched[start:end].all()
        assert touched.sum() == end - start
