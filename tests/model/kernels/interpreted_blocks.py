"""Runs whole blocks with our Triton kernels in Triton's interpreter on the CPU against plain torch in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from model.build import build_model
from model.compute import ComputeConfig
from model.ffn.swiglu import layer as ffn
from model.kernels.norm import triton as triton_norm
from model.kernels.rotary import triton as triton_rotary
from model.kernels.swiglu import triton as triton_swiglu
from model.layers import norm
from model.mixers.attention import layer as attention
from model.presets import PRESETS
from tests.model.kernels.interpreter import print_failures

WIDE, NARROW = torch.float32, torch.bfloat16


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
    loss, _ = model.loss_sum(tokens_BT, tokens_BT.roll(-1, 1), z_loss=0.0, chunk_tokens=24)
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in model.named_parameters()}


CHECKS = {check.__name__: check for check in (blocks,)}


if __name__ == "__main__":
    triton_norm.BACKWARD_PROGRAMS = 2  # so that few rows are many for one program
    triton_norm.TILE = 1024
    print_failures(CHECKS)
