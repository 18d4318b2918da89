"""How kernels become operators of torch's, which torch.compile and checkpointing see whole, and where they are taken."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.library import CustomOpDef


def takes_kernels(*tensors: Tensor) -> bool:
    """Whether kernels compute with these: on a GPU, all in bf16 or all in fp32.

    Within torch.compile they do not: the compiler fuses a layer with its neighbours.
    """
    first = tensors[0]
    return (
        not torch.compiler.is_compiling()
        and first.dtype in (torch.bfloat16, torch.float32)
        and all(x.is_cuda and x.dtype == first.dtype for x in tensors)
    )


def as_operator(name: str, *, empty: Callable[..., Any], mutates: Iterable[str] = ()) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """Decorates a function that computes: it becomes the operator braid::`name`, of the types in its signature.

    `empty` takes the same arguments and returns the outputs unfilled, so that shapes, dtypes and strides are known without running.
    `mutates` names the arguments that are overwritten.
    """

    def define(compute: Callable[..., Any]) -> CustomOpDef:
        defined = torch.library.custom_op(f"braid::{name}", compute, mutates_args=mutates)
        defined.register_fake(empty)
        return defined

    return define


def keep_inputs(inputs: tuple[Any, ...], output: Any) -> tuple[Any, ...]:
    """What most backwards need: all inputs of the forward."""
    return inputs


def differentiate(
    forward: CustomOpDef,
    backward: Callable[..., tuple[Any, ...]],
    *,
    keep: Callable[[tuple[Any, ...], Any], tuple[Any, ...]] = keep_inputs,
    materialize_grads: bool = True,
) -> None:
    """Gives an operator its gradients: `backward(*gradients of the outputs, *kept)`, one for each of the first inputs; the rest have none.

    `keep(inputs, output)` is what the backward needs, of tensors and of constants. Where nothing flows back into an output its gradient
    is zeros, or None without `materialize_grads`.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        kept = keep(inputs, output)
        ctx.num_inputs = len(inputs)
        ctx.is_tensor = [isinstance(x, Tensor) for x in kept]
        ctx.constants = [None if isinstance(x, Tensor) else x for x in kept]
        ctx.save_for_backward(*(x for x in kept if isinstance(x, Tensor)))
        ctx.set_materialize_grads(materialize_grads)

    def run_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        tensors = iter(ctx.saved_tensors)  # once: checkpointing refuses to compute them a second time
        kept = [next(tensors) if is_tensor else constant for is_tensor, constant in zip(ctx.is_tensor, ctx.constants, strict=True)]
        gradients = backward(*grads, *kept)
        return *gradients, *[None] * (ctx.num_inputs - len(gradients))

    forward.register_autograd(run_backward, setup_context=setup_context)


def contiguous_like(x: Tensor) -> Tensor:
    """An unfilled, contiguous tensor of x's shape, dtype and device: what a kernel writes to, and what `empty` returns."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)
