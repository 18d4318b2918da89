"""Runs AdamW's Triton kernel in Triton's interpreter on the CPU against torch.optim.AdamW in fp64; prints what is off.

TRITON_INTERPRET=1 must be set; arguments are names of CHECKS (`interpreter.run_interpreted`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from model.kernels.adamw import operator
from model.kernels.adamw import triton as triton_adamw
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig, ParamGroup
from tests.model.kernels.comparisons import noise
from tests.model.kernels.interpreter import print_failures
from tests.model.toys import declared

TOLERANCE = 5e-7
"""rel-L2 after NUM_STEPS, in fp32."""
SIZES = (1, 3, 16, 63, 64, 65, 1000)
NUM_STEPS = 4
STARTS = (0, 0, 7, 1, 1000, 0, 10**6)
"""Steps that each parameter has behind it."""
SETTINGS = {"lr": 0.05, "beta1": 0.9, "beta2": 0.95, "eps": 1e-3, "weight_decay": 0.3}
"""All large enough that leaving one out shows."""
BOUND = 7.0
VARIANTS: dict[str, dict[str, float]] = {
    "usual": {},
    "no decay": {"weight_decay": 0.0},
    "slow": {"beta1": 0.99, "beta2": 0.999, "eps": 1e-8},
    "no memory": {"beta1": 0.0, "beta2": 0.0},
}


def states() -> dict[str, list[Tensor]]:
    """In the order of `adamw.update`. The gradients come with the step."""
    begun = [bool(start) for start in STARTS]
    tensors = {"parameter": [bounded(noise(size, seed=1)) for size in SIZES]}
    tensors["exp_avg"] = [bounded(noise(size, seed=2) * moves) for size, moves in zip(SIZES, begun, strict=True)]
    tensors["exp_avg_sq"] = [bounded(noise(size, seed=3).square() * moves) for size, moves in zip(SIZES, begun, strict=True)]
    return tensors | {"step": [torch.tensor(float(start)) for start in STARTS]}


def bounded(x: Tensor) -> Tensor:
    """Behind it in memory lies BOUND."""
    return torch.cat((x, torch.tensor([BOUND])))[:-1]


def gradients(step: int) -> list[Tensor]:
    return [2 * noise(size, seed=10 + step) for size in SIZES]


def values() -> Iterator[str]:
    """Of every size, with step counts and scales of their own, step after step."""
    for variant, changes in VARIANTS.items():
        settings = SETTINGS | changes
        for scale in (None, 1.0, 0.01):
            found, exact = states(), {name: [x.double() for x in xs] for name, xs in states().items()}
            optimizer = exact_optimizer(exact, settings)
            for step in range(NUM_STEPS):
                grads = gradients(step)
                before = [grad.clone() for grad in grads]
                grad_scale = None if scale is None else torch.tensor(scale) * (step + 1)
                parameters, *moments, steps = found.values()
                triton_adamw.update(parameters, grads, *moments, steps, grad_scale=grad_scale, **settings)
                for parameter, grad in zip(exact["parameter"], grads, strict=True):
                    parameter.grad = grad.double() * (1.0 if grad_scale is None else grad_scale.double())
                optimizer.step()
                if not all(map(torch.equal, grads, before)):
                    yield f"{variant}, {scale}: changes the gradient"
            yield from (f"{variant}, scale {scale}: {wrong}" for wrong in differences(found, exact))


def withheld() -> Iterator[str]:
    """Gradients that are not finite change nothing where that was found, and 0 for found changes no bit of an ordinary step."""
    for found_inf in (0.0, 1.0):
        found, exact = states(), states()
        for tensors, flag in ((found, torch.tensor(found_inf)), (exact, None)):
            grads = [torch.full((size,), torch.nan) if found_inf else grad for size, grad in zip(SIZES, gradients(0), strict=True)]
            parameters, *moments, steps = tensors.values()
            if not (found_inf and flag is None):
                triton_adamw.update(parameters, grads, *moments, steps, grad_scale=None, found_inf=flag, **SETTINGS)
        for name, tensors in found.items():
            if not all(map(torch.equal, tensors, exact[name])):
                yield f"found_inf={found_inf}: {name} is another"


def exact_optimizer(tensors: dict[str, list[Tensor]], settings: dict[str, float]) -> torch.optim.AdamW:
    betas = settings["beta1"], settings["beta2"]
    optimizer = torch.optim.AdamW(
        tensors["parameter"], lr=settings["lr"], betas=betas, eps=settings["eps"], weight_decay=settings["weight_decay"], foreach=False
    )
    for parameter, exp_avg, exp_avg_sq, step in zip(*tensors.values(), strict=True):
        optimizer.state[parameter] = {"step": step, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    return optimizer


def differences(found: dict[str, list[Tensor]], exact: dict[str, list[Tensor]]) -> Iterator[str]:
    for name, tensors in found.items():
        for size, ours, theirs in zip(SIZES, tensors, exact[name], strict=True):
            if ours._base is not None and ours._base[-1] != BOUND:
                yield f"{name} of {size} elements: written beyond its end"
            distance = ((ours.double() - theirs).norm() / theirs.norm()).item()
            if not distance < (TOLERANCE if name != "step" else 1e-30):  # NaN too
                yield f"{name} of {size} elements is {distance:.1e} off"


def corrections() -> Iterator[str]:
    """As exact as fp32 holds them, at steps where 1 − βᵗ in fp32 would have lost half its digits."""
    step_P = torch.tensor([1.0, 2.0, 3.0, 1e3, 1e7])
    for beta1, beta2 in ((0.9, 0.95), (0.999, 0.9999), (0.0, 0.0)):
        found_P2 = triton_adamw.bias_corrections(step_P, beta1, beta2)
        exact_P2 = torch.tensor([[1 / (1 - beta1**step), (1 - beta2**step) ** -0.5] for step in step_P.tolist()], dtype=torch.float64)
        distance = (found_P2 / exact_P2 - 1).abs().max().item()
        if not distance < 6.1e-8:
            yield f"betas {beta1}, {beta2}: {distance:.1e} off"


class Toy(nn.Module):
    """What Muon takes and what it does not, a parameter of no element, and one without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm = nn.Embedding(5, 30), nn.RMSNorm(30)
        self.empty, self.frozen = nn.Parameter(torch.empty(0, 4)), nn.Parameter(torch.ones(3))
        self.layers = nn.ModuleList([nn.Linear(30, 30)])


def trained(config: OptimizerConfig, *, strided: bool = False) -> dict[str, Tensor]:
    """Parameters and state after three steps, with the gradients in any order in memory; one parameter never has a gradient."""
    model = Toy()
    optimizer = build_optimizer(model, declared(model), config)
    for step in range(3):
        for name, parameter in model.named_parameters():
            grad = noise(*parameter.shape, seed=step)
            parameter.grad = None if name == "frozen" else grad.T.contiguous().T if strided and grad.ndim == 2 else grad
        optimizer.step(grad_scale=torch.tensor(0.3 + step))
    states = {f"{name}: {key}": x for name, p in model.named_parameters() for key, x in optimizer.state[p].items()}
    return {name: p.detach() for name, p in model.named_parameters()} | states


def optimizers() -> Iterator[str]:
    """AdamW, and Muon's AdamW, with their groups: as without the kernel, and taking it once for each group that is not Muon's."""
    groups = (ParamGroup(pattern="embed.weight", weight_decay=0.0), ParamGroup(pattern="norm.*", lr_scale=0.5))
    for name, times in (("adamw", [3, 1, 1]), ("muon", [2, 1, 1])):
        config = OptimizerConfig(name=name, lr=0.1, eps=1e-3, groups=groups)
        theirs = trained(config)
        with kernel_everywhere() as ran:
            ours = trained(config, strided=True)
        for key, exact in theirs.items():
            distance = ((ours[key] - exact).norm() / exact.norm().clamp(min=1e-9)).item()
            if not distance < TOLERANCE:
                yield f"{name}: {key} is {distance:.1e} off"
        if ran != 3 * times:
            yield f"{name}: ran for {ran} parameters"


@contextmanager
def kernel_everywhere() -> Iterator[list[int]]:
    """AdamW takes the kernel on the CPU too; of how many parameters, as it runs."""
    ran: list[int] = []
    right = triton_adamw.update

    def update_and_note(parameters: list[Tensor], *args: object, **kwargs: object) -> None:
        ran.append(len(parameters))
        right(parameters, *args, **kwargs)

    with patch.object(operator, "takes_kernel", lambda *xs: True), patch.object(triton_adamw, "update", update_and_note):
        yield ran


CHECKS = {check.__name__: check for check in (values, withheld, corrections, optimizers)}


if __name__ == "__main__":
    triton_adamw.BLOCK = 64  # so that few elements are many blocks
    print_failures(CHECKS)
