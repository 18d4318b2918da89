"""Muon: torch.optim.Muon's update for the matrices inside blocks, to the bit, however they are sharded; AdamW for the rest."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.optim import AdamW, Muon
from torch.utils._python_dispatch import TorchDispatchMode

from model.optim.build import build_optimizer, initial_state
from model.optim.config import OptimizerConfig, ParamGroup
from model.optim.muon import MuonAdamW
from model.optim.orthogonal import orthogonalise
from tests.model.gloo_world import run_in_world
from tests.model.toys import declared

CONFIG = OptimizerConfig(
    name="muon", lr=0.02, groups=(ParamGroup(pattern="embed.weight", weight_decay=0.0), ParamGroup(pattern="*.down.weight", lr_scale=0.5))
)
NUM_STEPS = 3


class Block(nn.Module):
    """Matrices of every kind of shape, and what Muon is not for: a vector and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.up, self.down = nn.Linear(12, 12, bias=False), nn.Linear(12, 22, bias=False), nn.Linear(22, 12, bias=False)
        self.narrow = nn.Linear(12, 3, bias=False)
        self.norm = nn.RMSNorm(12)
        self.conv = nn.Conv1d(12, 12, 4, groups=12, bias=False)


class Toy(nn.Module):
    def __init__(self, num_layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 12)
        self.layers = nn.ModuleList(Block() for _ in range(num_layers))
        self.head = nn.Linear(12, 10, bias=False)


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def gradient(name: str, shape: torch.Size, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step + 100 * sum(map(ord, name)))
    return torch.randn(shape, generator=generator)


def lr_of(step: int) -> float:
    return CONFIG.lr * step / NUM_STEPS


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *, first: int = 1, last: int = NUM_STEPS) -> None:
    """Steps with gradients that are a function of name and step, sharded like the parameters."""
    for step in range(first, last + 1):
        for name, parameter in model.named_parameters():
            whole = gradient(name, parameter.shape, step)
            parameter.grad = sharded_like(parameter, whole) if isinstance(parameter, DTensor) else whole
        for group in optimizer.param_groups:
            group["lr"] = lr_of(step) * group["lr_scale"]
        optimizer.step()


def sharded_like(parameter: DTensor, whole: Tensor) -> DTensor:
    """Cut by the rectangle that this rank's shard is of the parameter."""
    chunk = parameter.__create_chunk_list__()[0]
    local = whole[tuple(slice(offset, offset + size) for offset, size in zip(chunk.offsets, chunk.sizes, strict=True))]
    return DTensor(local.contiguous(), parameter._spec, requires_grad=False)


def full(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach() for name, tensor in tensors.items()}


def outcome(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every full parameter and every full tensor of its state."""
    parameters = dict(model.named_parameters())
    states = {f"{name}:{key}": value for name, parameter in parameters.items() for key, value in optimizer.state[parameter].items()}
    return full({**parameters, **states})


def test_one_process_does_what_torch_does_to_the_bit() -> None:
    """With settings that are nobody's defaults."""
    model = toy()
    theirs = copy.deepcopy(model)
    train(model, build_optimizer(model, declared(model), replace(CONFIG, beta1=0.8, beta2=0.7, eps=0.01, muon_momentum=0.6)))

    matrices, others = [], []
    for name, parameter in theirs.named_parameters():
        settings = {"lr_scale": 0.5 if ".down." in name else 1.0, "weight_decay": 0.0 if name == "embed.weight" else 0.1}
        in_block = name.startswith("layers.") and parameter.ndim == 2
        (matrices if in_block else others).append({"params": [parameter], **settings})
    muon = Muon(matrices, momentum=0.6, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW(others, betas=(0.8, 0.7), eps=0.01, fused=True)
    for optimizer in (muon, adamw):
        train(theirs, optimizer)

    for (name, ours), torchs in zip(model.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, torchs), name


def test_only_matrices_inside_blocks_take_muon() -> None:
    model = toy()
    optimizer = build_optimizer(model, declared(model), CONFIG)
    muon = {name for name, parameter in model.named_parameters() if "momentum_buffer" in optimizer.state[parameter]}
    assert muon == {f"layers.{layer}.{name}.weight" for layer in range(2) for name in ("square", "up", "down", "narrow")}


def test_singular_values_come_near_one_and_the_factors_stay() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalise(matrix.bfloat16()).float()
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.5
    assert values.max() < 1.3
    inner = left.T @ result @ right.T
    assert (inner - inner.diag().diag()).norm() < 0.05 * inner.norm()
    assert torch.equal(orthogonalise(matrix.T.bfloat16()).float(), result.T)


def test_a_matrix_of_zeros_stays_one() -> None:
    assert torch.equal(orthogonalise(torch.zeros(3, 5, dtype=torch.bfloat16)), torch.zeros(3, 5, dtype=torch.bfloat16))


def test_what_has_no_gradient_stays() -> None:
    model = toy()
    optimizer = build_optimizer(model, declared(model), CONFIG)
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, last=0)
    model.layers[0].square.weight.grad = torch.ones(12, 12)
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"layers.0.square.weight"}


def test_state_copied_into_a_fresh_optimizer_continues_to_the_bit() -> None:
    straight, resumed = toy(), toy()
    ours, first = build_optimizer(straight, declared(straight), CONFIG), build_optimizer(resumed, declared(resumed), CONFIG)
    train(straight, ours)

    train(resumed, first, last=2)
    second = build_optimizer(resumed, declared(resumed), CONFIG)
    assert initial_state(second).keys() == second.state.keys()
    for parameter, state in second.state.items():
        for key, tensor in state.items():
            tensor.copy_(first.state[parameter][key])
    train(resumed, second, first=3)

    assert_same(outcome(straight, ours), outcome(resumed, second))


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


LAYOUTS = {
    "dp_shard=2": (2, 1, 1),
    "tp=2": (1, 1, 2),
    "dp_replicate=2": (1, 2, 1),
    "dp_shard=4": (4, 1, 1),
    "dp_shard=2 tp=2": (2, 1, 2),
    "dp_shard=2 dp_replicate=2": (2, 2, 1),
}
"""(dp_shard, dp_replicate, tp)."""


def parallel_toy(dp_shard: int, dp_replicate: int, tp: int) -> Toy:
    """Row-wise and column-wise over tp, then fully_shard as the model does it; 22, 3 and 10 rows do not divide evenly by 4."""
    mesh = init_device_mesh("cpu", (dp_replicate, dp_shard, tp), mesh_dim_names=("dp_replicate", "dp_shard", "tp"))
    model = toy()
    if tp > 1:
        for block in model.layers:
            for name, dim in (("square", 0), ("up", 0), ("down", 1)):
                _place(getattr(block, name), mesh["tp"], [Shard(dim)])
            for name in ("narrow", "norm", "conv"):
                _place(getattr(block, name), mesh["tp"], [Replicate()])
        _place(model.embed, mesh["tp"], [Shard(0)])
        _place(model.head, mesh["tp"], [Shard(0)])
    dp = mesh["dp_replicate", "dp_shard"] if dp_replicate > 1 else mesh["dp_shard"]
    for block in model.layers:
        fully_shard(block, mesh=dp)
    fully_shard(model, mesh=dp)
    return model


def _place(module: nn.Module, mesh: DeviceMesh, placements: list) -> None:
    parameter = module.weight
    assert isinstance(parameter, nn.Parameter)
    module.weight = nn.Parameter(distribute_tensor(parameter.detach(), mesh, placements))


def check_layouts(directory: Path) -> None:
    whole = toy()
    reference = build_optimizer(whole, declared(whole), CONFIG)
    train(whole, reference)
    expected = outcome(whole, reference)
    for name, (dp_shard, dp_replicate, tp) in LAYOUTS.items():
        if dp_shard * dp_replicate * tp != dist.get_world_size():
            continue
        model = parallel_toy(dp_shard, dp_replicate, tp)
        if dist.get_rank() == 0:
            build_optimizer(model, declared(model), CONFIG)  # asks no other rank
        optimizer = build_optimizer(model, declared(model), CONFIG)
        assert isinstance(optimizer, MuonAdamW)
        train(model, optimizer)
        for parameter, state in optimizer.state.items():
            assert isinstance(parameter, DTensor)
            assert all(t.placements == parameter.placements for t in state.values() if isinstance(t, DTensor)), name
        for key, tensor in outcome(model, optimizer).items():
            if key.startswith("layers.") and tensor.ndim == 2:
                assert torch.equal(tensor, expected[key]), f"{name}: {key}"
            else:  # fused AdamW rounds the tail of a shard in its own way
                torch.testing.assert_close(tensor, expected[key], rtol=1e-6, atol=1e-7, msg=f"{name}: {key}")
    assert num_products(parallel_toy(dist.get_world_size(), 1, 1)) == 8 // dist.get_world_size() * 5 * 2, "each rank does its share only"


def num_products(model: Toy) -> int:
    """How many products of three matrices a step takes of this rank: two in each of five iterations for a matrix."""
    counter = Counter()
    optimizer = build_optimizer(model, declared(model), CONFIG)
    with counter:
        train(model, optimizer, last=1)
    return counter.num_products


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.num_products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.num_products += func is torch.ops.aten.addmm.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_sharded_matrix_gets_the_unsharded_update_to_the_bit(num_ranks: int, tmp_path: Path) -> None:
    run_in_world(num_ranks, check_layouts, tmp_path / "world")
