"""Runs the small layers' Triton kernels in Triton's interpreter on the CPU against plain torch in fp64; prints what is off.

As `interpreted_layers`, whose process this one resembles: TRITON_INTERPRET=1 must be set, arguments are names of CHECKS, and what
`torch.empty` gives is NaN.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor

from model.build import build_model
from model.compute import ComputeConfig
from model.ffn.swiglu import layer as ffn
from model.kernels.norm import operator as norm_operator
from model.kernels.norm import triton as triton_norm
from model.kernels.rotary import definition as rotary_definition
from model.kernels.rotary import operator as rotary_operator
from model.kernels.rotary import triton as triton_rotary
from model.kernels.swiglu import definition as swiglu_definition
from model.kernels.swiglu import operator as swiglu_operator
from model.kernels.swiglu import triton as triton_swiglu
from model.layers import norm
from model.mixers.attention import layer as attention
from model.presets import PRESETS
from tests.model.interpreted_layers import compare, noise, of_sums, with_gradients
from tests.model.interpreter import print_failures

WIDE, NARROW = torch.float32, torch.bfloat16
EPS = 1e-2
"""Large, so that leaving it out shows."""


def normalise(x: Tensor, weight_D: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight_D


def normalise_sum(x: Tensor, y: Tensor, weight_D: Tensor) -> tuple[Tensor, Tensor]:
    return x + y, normalise(x + y, weight_D)


def add_normalised(x: Tensor, y: Tensor, weight_D: Tensor) -> Tensor:
    return x + normalise(y, weight_D)


def norms() -> Iterator[str]:
    """Widths of all kinds, as many rows as a program takes at once, fewer and more."""
    cases = [(0, 240, WIDE), (1, 240, WIDE), (65, 240, WIDE), (65, 256, NARROW), (3, 3840, NARROW), (2, 3840, WIDE)]
    cases += [(65, 100, WIDE), (65, 100, NARROW), (5, 6, NARROW), (3, 1, WIDE), (1, 5000, WIDE)]
    for (num_tokens, width, dtype), weight_dtype in itertools.product(cases, (WIDE, NARROW)):
        x, y = (noise(2, num_tokens, width, dtype=dtype, seed=seed) for seed in (1, 2))
        weight_D = noise(width, dtype=weight_dtype, seed=3) + 1
        name = f"T {num_tokens}, D {width}, {dtype}, weight {weight_dtype}"
        yield from compare(name, partial(norm_operator.rms_norm, eps=EPS), normalise, [x, weight_D])
        yield from compare(f"{name}, of a sum", partial(norm_operator.norm_of_sum, eps=EPS), normalise_sum, [x, y, weight_D.to(dtype)])
        yield from compare(f"{name}, added", partial(norm_operator.add_norm, eps=EPS), add_normalised, [x, y, weight_D])


def gated() -> Iterator[str]:
    for shape, dtype in itertools.product([(2, 0, 16), (1, 1, 1), (2, 3, 17), (1, 5, 1024)], (WIDE, NARROW)):
        inputs = [3 * noise(*shape, dtype=dtype, seed=seed) for seed in (1, 2)]
        yield from compare(f"{shape}, {dtype}", swiglu_operator.swiglu, swiglu_definition.swiglu, inputs)
    far = torch.tensor([-3e38, -1e4, -90.0, -30.0, 0.0, 30.0, 90.0, 1e4])
    for out in with_gradients(swiglu_operator.swiglu, [far, torch.ones(8)]):
        if not out.isfinite().all():
            yield f"gates far from 0: {out.tolist()}"


def rotation() -> Iterator[str]:
    """Heads of all widths, more than a program takes and fewer; positions of all rows the same or each its own."""
    for (num_tokens, num_heads, head_dim), dtype in itertools.product([(0, 3, 16), (1, 1, 2), (5, 3, 6), (3, 33, 128)], (WIDE, NARROW)):
        x_BTNK = noise(2, num_tokens, num_heads, head_dim, dtype=dtype)
        position_BT = torch.arange(2 * num_tokens).view(2, num_tokens) * 7
        for position in (position_BT, position_BT[:1]):
            cos, sin = rotary_definition.rotary_tables(position, head_dim=head_dim, theta=5e5, dtype=WIDE)
            name = f"T {num_tokens}, N {num_heads}, K {head_dim}, {dtype}, positions {list(position.shape)}"
            ours, definition = (partial(of.rotate, cos=cos, sin=sin) for of in (rotary_operator, rotary_definition))
            yield from compare(name, ours, definition, [x_BTNK])


def views() -> Iterator[str]:
    """Inputs of other strides, gradients of one number, at an offset into their storage; then the operators by PyTorch's rules."""

    def transposed(*shape: int, seed: int = 0) -> Tensor:
        return noise(1 + shape[0], *reversed(shape[1:]), seed=seed)[1:].transpose(1, -1).requires_grad_()

    x, y, weight_D = transposed(2, 7, 12), transposed(2, 7, 12, seed=1), noise(24)[::2].requires_grad_()
    cos, sin = (noise(1, 7, 1, 8, seed=seed)[..., ::2] for seed in (1, 2))
    for operator, inputs in (
        (torch.ops.braid.rms_norm.default, (x, weight_D, EPS)),
        (torch.ops.braid.norm_of_sum.default, (x, y, weight_D, EPS)),
        (torch.ops.braid.add_norm.default, (x, y, weight_D, EPS)),
        (torch.ops.braid.swiglu.default, (x, y)),
        (torch.ops.braid.rotate.default, (transposed(2, 7, 3, 8), cos, sin, False)),
    ):
        torch.library.opcheck(operator, inputs, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))
        plain = tuple(x.detach().contiguous().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs)
        if not all(itertools.starmap(torch.equal, zip(of_sums(operator, inputs), of_sums(operator, plain), strict=True))):
            yield f"{operator}: other numbers from views"


@contextmanager
def kernels_everywhere() -> Iterator[list[str]]:
    """The layers take kernels on the CPU too; the names of those that ran, as they run."""
    ran: list[str] = []
    with ExitStack() as patches:
        for module in (norm, ffn, attention):
            patches.enter_context(patch.object(module, "takes_kernels", lambda *xs: all(x.dtype in (WIDE, NARROW) for x in xs)))
        for module, name in ((triton_norm, "forward"), (triton_swiglu, "forward"), (triton_rotary, "rotate")):
            patches.enter_context(patch.object(module, name, _noting(module.__name__, getattr(module, name), ran)))
        yield ran


def _noting(module: str, launch: Callable[..., object], ran: list[str]) -> Callable[..., object]:
    def launch_and_note(*args: object, **kwargs: object) -> object:
        ran.append("rotate back" if kwargs.get("backwards") else module.split(".")[-2])
        return launch(*args, **kwargs)

    return launch_and_note


def blocks() -> Iterator[str]:
    """A model with both kinds of blocks gives what plain torch gives, and with selective checkpointing the kernels run again."""
    config = replace(PRESETS["tiny"], num_layers=2, layer_pattern="gdn attn", d_model=48, num_heads=2, vocab_size=50)
    tokens_BT = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))
    exact = gradients_of(config, tokens_BT, "none", torch.float64)
    for checkpointing in ("none", "selective", "full"):
        with kernels_everywhere() as ran:
            found = gradients_of(config, tokens_BT, checkpointing, WIDE)
        for name, gradient in found.items():
            distance = ((gradient.double() - exact[name]).norm() / exact[name].norm()).item()
            if not distance < 1e-5:
                yield f"{checkpointing}: {name} is {distance:.1e} off"
        times = 1 if checkpointing == "none" else 2
        wanted = {"norm": 6 * times + 1, "swiglu": 2 * times, "rotary": 2 * times, "rotate back": 2}
        if {name: ran.count(name) for name in wanted} != wanted:
            yield f"{checkpointing}: ran {[(name, ran.count(name)) for name in wanted]}"


def gradients_of(config, tokens_BT: Tensor, checkpointing: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """And the loss."""
    compute = ComputeConfig(activation_checkpointing=checkpointing)
    model = build_model(config, None, device=torch.device("cpu"), seed=1, compute=compute, compute_dtype=dtype)
    loss = model.loss_sum(tokens_BT, tokens_BT.roll(-1, 1), z_loss=0.0, chunk_tokens=24)
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters()}


CHECKS = {check.__name__: check for check in (norms, gated, rotation, views, blocks)}


if __name__ == "__main__":
    triton_norm.BACKWARD_PROGRAMS = 2  # so that few rows are many for one program
    triton_norm.TILE = 1024
    print_failures(CHECKS)
