"""The kernel of a SwiGLU feed-forward beside its definition."""

from collections.abc import Iterator

from torch import Tensor

from model.ffn.swiglu import layer
from model.kernel_check import CheckTerms, KernelCheck


def swiglu_checks(ffn_width: int, terms: CheckTerms) -> Iterator[KernelCheck]:
    """The product with the gate; in fp64 it takes no kernel."""
    noise = terms.noise()
    inputs = {name: noise(1, terms.num_tokens, ffn_width // terms.parallel.tp) for name in ("gate", "up")}
    yield KernelCheck(name="swiglu", compute=_swiglu, exact=_swiglu, inputs=inputs)


def _swiglu(gate: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    return (layer.swiglu(gate, up),)
