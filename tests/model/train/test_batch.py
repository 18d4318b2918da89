"""Cutting rows for a layout: micro-batches, documents, and lengths that nothing divides."""

from types import SimpleNamespace

import pytest
import torch

from model.documents import build_documents, pad_offsets
from model.layers.head import IGNORED
from model.parallel.config import ParallelConfig
from model.parallel.mesh import Mesh
from model.train.batch import build_batches

CPU = torch.device("cpu")


def test_documents_know_where_they_start_and_how_far_each_token_is() -> None:
    documents = build_documents(torch.tensor([0, 2, 5, 6, 10]), num_rows=2, num_tokens=5, device=CPU)
    assert documents.position_BT.tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 2, 3]]
    assert documents.max_length == 4


@pytest.mark.parametrize("offsets", [[0, 5], [0, 5, 5, 10], [1, 5, 10], [0, 3, 10], [0, 5, 11], [0, 5, 10, 11], [-1, 0, 5, 10]])
def test_offsets_that_are_none_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match=r"^document offsets .*: not ascending from 0 to 10 over every row's start$"):
        build_documents(torch.tensor(offsets), num_rows=2, num_tokens=5, device=CPU)


def test_filling_up_a_row_lengthens_its_last_document() -> None:
    padded = pad_offsets(torch.tensor([0, 2, 5, 6, 10]), num_tokens=5, padded=8)
    assert padded.tolist() == [0, 2, 8, 9, 16]


def test_rows_become_micro_batches_with_their_own_documents() -> None:
    tokens = torch.arange(15).view(3, 5)
    first, second = build_batches(
        tokens_BT=tokens, labels_BT=tokens + 1, offsets_P=torch.tensor([0, 2, 5, 10, 11, 15]), micro_rows=2, mesh=None, device=CPU
    )
    assert first.tokens_BT.tolist() == tokens[:2].tolist()
    assert second.labels_BT.tolist() == (tokens[2:] + 1).tolist()
    assert first.documents is not None
    assert second.documents is not None
    assert first.documents.offsets_P.tolist() == [0, 2, 5, 10]
    assert second.documents.offsets_P.tolist() == [0, 1, 5]


def test_rows_whose_documents_are_not_kept_apart_are_whole() -> None:
    tokens = torch.arange(15).view(3, 5)
    batches = build_batches(tokens_BT=tokens, labels_BT=tokens + 1, offsets_P=None, micro_rows=2, mesh=None, device=CPU)
    assert [(len(batch.tokens_BT), batch.documents) for batch in batches] == [(2, None), (1, None)]


def test_a_row_that_the_ranks_can_not_share_evenly_is_filled_up_and_nobody_learns_from_the_filling() -> None:
    tokens = torch.arange(1, 6).view(1, 5)
    slices = []
    for rank in range(2):
        ranks_of_cp = SimpleNamespace(size=lambda: 2, get_local_rank=lambda rank=rank: rank)
        mesh = Mesh(parallel=ParallelConfig(cp=2, tp=2), fsdp=None, tp=None, cp=ranks_of_cp)  # type: ignore[arg-type]
        [batch] = build_batches(tokens_BT=tokens, labels_BT=tokens, offsets_P=torch.tensor([0, 3, 5]), micro_rows=1, mesh=mesh, device=CPU)
        slices.append(batch)
    assert torch.cat([part.tokens_BT for part in slices], 1).tolist() == [[1, 2, 3, 4, 5, 0, 0, 0]]
    assert torch.cat([part.labels_BT for part in slices], 1).tolist() == [[1, 2, 3, 4, 5, *[IGNORED] * 3]]
    assert slices[0].documents is not None
    assert slices[0].documents.offsets_P.tolist() == [0, 3, 8]
