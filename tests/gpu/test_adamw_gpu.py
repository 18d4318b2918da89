"""AdamW's kernel on a GPU against torch's AdamW in fp64; its bits, its independence of the host, and tensors of over 2³¹ elements."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.kernels.adamw import triton as triton_adamw
from model.optim.adamw import AdamW
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from tests.model.toys import declared

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # Triton's own
]
SIZES = [(1,), (3,), (30,), (3840,), (1000, 37), (3840, 4096), (100352, 64)]
CONFIG = OptimizerConfig(lr=1e-2, eps=1e-6, groups=())
NUM_STEPS = 4


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shapes = enumerate(SIZES)
        self.weights = nn.ParameterList(nn.Parameter(noise(*shape, seed=index)) for index, shape in shapes)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")


def set_gradients(model: nn.Module, step: int) -> None:
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = noise(*parameter.shape, seed=100 * step + index)


def trained(optimizer: AdamW, model: nn.Module) -> list[Tensor]:
    """Parameters and state."""
    for step in range(NUM_STEPS):
        set_gradients(model, step)
        optimizer.step(grad_scale=torch.tensor(0.1 + step, device="cuda"))
    return outcome(optimizer, model)


def outcome(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[Tensor]:
    states = [optimizer.state[parameter][key] for parameter in model.parameters() for key in ("step", "exp_avg", "exp_avg_sq")]
    return [parameter.detach() for parameter in model.parameters()] + states


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, weight_decay=0.0), replace(CONFIG, beta1=0.99, beta2=0.999, lr=0.1)])
def test_it_does_what_torchs_does_in_fp64(config: OptimizerConfig) -> None:
    ours, theirs = Toy(), Toy().double()
    found = trained(build_optimizer(ours, declared(ours), config), ours)
    settings = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps, "weight_decay": config.weight_decay}
    adamw = torch.optim.AdamW(theirs.parameters(), foreach=False, **settings)
    for step in range(NUM_STEPS):
        set_gradients(ours, step)
        for parameter, narrow in zip(theirs.parameters(), ours.parameters(), strict=True):
            parameter.grad = narrow.grad.double() * torch.tensor(0.1 + step).item()
        adamw.step()
    for a, b in zip(found, outcome(adamw, theirs), strict=True):
        # A parameter that has come near zero is as exact as what was taken off it.
        assert (a.double() - b.double().to(a.device)).norm() <= 1e-6 * (b.double().norm() + config.lr)


def test_two_runs_have_the_same_bits_and_leave_the_gradients() -> None:
    models = Toy(), Toy()
    first, second = (trained(build_optimizer(model, declared(model), CONFIG), model) for model in models)
    assert all(map(torch.equal, first, second))
    gradients = [noise(*parameter.shape, seed=100 * (NUM_STEPS - 1) + index) for index, parameter in enumerate(models[0].parameters())]
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(models[0].parameters(), gradients, strict=True))


@pytest.fixture
def _waiting_is_an_error() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_waiting_is_an_error")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_host_waits_for_nothing(name: str) -> None:
    model = Toy()
    optimizer = build_optimizer(model, declared(model), replace(CONFIG, name=name))
    grad_scale = torch.tensor(0.5, device="cuda")
    set_gradients(model, 0)
    optimizer.step(grad_scale=grad_scale)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    optimizer.step(grad_scale=grad_scale)
    optimizer.step(grad_scale=grad_scale, found_inf=torch.zeros((), device="cuda"))
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_that_is_withheld_changes_nothing(name: str) -> None:
    model = Toy()
    optimizer = build_optimizer(model, declared(model), replace(CONFIG, name=name))
    set_gradients(model, 0)
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    nan = torch.tensor(torch.nan, device="cuda")
    optimizer.step(grad_scale=nan, found_inf=torch.ones((), device="cuda"))
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0.0, atol=0.0)


def test_a_parameter_may_have_more_elements_than_32_bits_count() -> None:
    size = 2**31 + 64
    if torch.cuda.mem_get_info()[0] < 18 * size:
        pytest.skip("needs 39 GB of GPU memory")
    parameter, grad, exp_avg, exp_avg_sq = (torch.zeros(size, device="cuda") for _ in range(4))
    for ends in (slice(None, 64), slice(-64, None)):
        grad[ends] = 1.0
    step = torch.zeros((), device="cuda")
    settings = {"lr": 0.5, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    triton_adamw.update([parameter], [grad], [exp_avg], [exp_avg_sq], [step], grad_scale=None, **settings)
    for ends in (slice(None, 64), slice(-64, None)):
        torch.testing.assert_close(parameter[ends], torch.full((64,), -0.5, device="cuda"))
    assert parameter.count_nonzero() == 128
