"""fla's two entry points as it documents them, in plain torch: our side of the Triton kernels is tested without a GPU."""

import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from model.kernels.delta_rule import definition

Parts = dict[str, Tensor]


class FakeFla:
    """Counts its calls. What it keeps for the backward has fla's shapes and dtypes, but it keeps the log decay itself."""

    def __init__(self) -> None:
        self.num_forwards = self.num_backwards = 0

    def forward(self, *, initial_state: None, output_final_state: bool, **call: Any) -> tuple[Any, ...]:
        self.num_forwards += 1
        parts = checked_parts(call)
        out = by_sequence(parts, call["cu_seqlens"]).to(call["v"].dtype)
        inverse = call["k"].new_zeros(*call["g"].shape, call["chunk_size"])
        return call["g"].float().clone(), out, inverse, None, None, None

    def backward(self, *, do: Tensor, A: Tensor, initial_state: None, dht: None, **call: Any) -> tuple[Any, ...]:
        self.num_backwards += 1
        parts = checked_parts(call | {"do": do, "A": A})
        assert A.shape == (*call["g"].shape, call["chunk_size"])
        pull_back = torch.func.vjp(lambda parts: by_sequence(parts, call["cu_seqlens"]), parts)[1]
        gradients = pull_back(do.to(call["g"].dtype))[0]
        q, k, v, g, beta = (gradients[name].to(call[name].dtype) for name in ("q", "k", "v", "g", "beta"))
        return q, k, v, beta, g, None, None, None


def checked_parts(call: dict[str, Any]) -> Parts:
    """The kernels' conditions; then what the delta rule takes, in one dtype."""
    assert all(x.is_contiguous() for x in call.values() if isinstance(x, Tensor))
    assert call["scale"] == 1.0
    assert call["chunk_size"] == 64
    if call["cu_seqlens"] is not None:
        assert call["q"].shape[0] == 1
        assert torch.equal(call["chunk_indices"], chunk_indices(call["cu_seqlens"], 64))
    return {name: call[name].to(call["g"].dtype) for name in ("q", "k", "v", "g", "beta")}


def by_sequence(parts: Parts, cu_seqlens: Tensor | None) -> Tensor:
    """The delta rule of each sequence by itself."""
    names = {"q": "q", "k": "k", "v": "v", "g": "log_decay", "beta": "beta"}
    ends = [0, parts["q"].shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
    outputs = [definition.gated_delta_rule(**{names[name]: x[:, start:end] for name, x in parts.items()}) for start, end in pairwise(ends)]
    return torch.cat(outputs, dim=1)


def chunk_indices(cu_seqlens: Tensor, chunk_size: int) -> Tensor:
    """(sequence, chunk within it) of every chunk."""
    counts = -(-cu_seqlens.diff() // chunk_size)
    return torch.tensor([(sequence, chunk) for sequence, count in enumerate(counts.tolist()) for chunk in range(count)]).to(cu_seqlens)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeFla:
    fla = FakeFla()
    chunk, index = ModuleType("chunk"), ModuleType("index")
    chunk.chunk_gated_delta_rule_fwd, chunk.chunk_gated_delta_rule_bwd = fla.forward, fla.backward
    index.prepare_chunk_indices = chunk_indices
    monkeypatch.setitem(sys.modules, "fla.ops.gated_delta_rule.chunk", chunk)
    monkeypatch.setitem(sys.modules, "fla.ops.utils.index", index)
    return fla
