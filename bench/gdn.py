"""The gated delta rule, and the whole layer around it, ours and with flash-linear-attention's kernels: `python -m bench.gdn`.

On a GPU, in bf16: device and wall time of each case, forward and backward. Without one a small case in plain torch, so that the
command can be tried.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.fla_guard import lift_fla_guard
from bench.timing import DeviceStopwatch, Run, Stopwatch, describe_gpu, gpu_wall_s, medians_s, print_ratios
from model.config import ModelConfig
from model.declare import Cut, projection
from model.kernels.conv.definition import l2_normalise
from model.kernels.delta_rule import definition
from model.kernels.delta_rule.operator import gated_delta_rule
from model.kernels.delta_rule.sizes import Backend
from model.layers.gates import GateParameters
from model.layers.linear import Linear
from model.mixers.context import Context
from model.mixers.gdn.costs import gdn_gate_parameters, gdn_parameters
from model.mixers.gdn.layer import GatedDeltaNet
from model.presets import PRESETS
from model.weights.initial import init_weights

BACKENDS: dict[str, Backend] = {"fla": "fla", "ours": "triton"}
"""The peer first: ratios are to it."""
PHASES = ("forward", "backward", "forward + backward")
ROUNDS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    num_heads: int
    key_dim: int
    value_dim: int
    num_rows: int = 1
    num_tokens: int = 8192
    """Tokens of a row."""

    def __str__(self) -> str:
        return f"{self.num_rows} × {self.num_tokens} tokens, {self.num_heads} heads × ({self.key_dim}, {self.value_dim})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    sizes: Sizes
    goal: str
    """What our forward + backward should take."""


OLMO = Sizes(num_heads=30, key_dim=96, value_dim=192)
RULES = {
    "96x192": Case(sizes=OLMO, goal="at most 1.4 ms of device time, aim 0.9"),
    "96x192-rows": Case(sizes=replace(OLMO, num_rows=4), goal="at most 5.5 ms of wall time, aim 3.5"),
    "96x192-long": Case(sizes=replace(OLMO, num_tokens=65536), goal="at most 12 ms of wall time, aim 8"),
    "128x128": Case(sizes=Sizes(num_heads=32, key_dim=128, value_dim=128), goal="at least 1.5 × fla, aim 2.2"),
    "128x256": Case(sizes=Sizes(num_heads=32, key_dim=128, value_dim=256), goal="at least 1.5 × fla, aim 2.2"),
}
LAYER = "layer"
LAYER_GOAL = "at most 7.6 ms of device time, aim 6.8"
SMALL = Sizes(num_heads=4, key_dim=32, value_dim=64, num_tokens=256)
"""On a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Something to compute and to differentiate."""

    forward: Callable[[], tuple[Tensor, ...]]
    leaves: tuple[Tensor, ...]
    grad_outs: tuple[Tensor, ...]

    def phase(self, name: str) -> Run:
        """One of PHASES. The backward keeps what a forward, run here, left."""
        if name == "forward":
            return self.forward
        if name == "backward":
            outs = self.forward()
            return lambda: torch.autograd.grad(outs, self.leaves, self.grad_outs, retain_graph=True)
        return lambda: torch.autograd.grad(self.forward(), self.leaves, self.grad_outs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """What each stopwatch says of one phase, in seconds, or why it failed; by candidate."""

    seconds: dict[str, dict[str, float]]
    """By stopwatch, then by candidate."""
    failures: dict[str, str]


def make_inputs(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Tensor], Tensor]:
    """q, k, v, log_decay and beta as leaves, and a gradient of the output; the gates are fp32."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(sizes.num_rows, sizes.num_tokens, sizes.num_heads, *shape, generator=generator, device=device)

    parts = {
        "q": l2_normalise(noise(sizes.key_dim), scale=sizes.key_dim**-0.5).to(dtype),
        "k": l2_normalise(noise(sizes.key_dim), scale=1.0).to(dtype),
        "v": noise(sizes.value_dim).to(dtype),
        "log_decay": -F.softplus(noise() - 2),
        "beta": 2 * noise().sigmoid(),
    }
    return {name: part.requires_grad_() for name, part in parts.items()}, noise(sizes.value_dim).to(dtype)


def rule_work(rule: Callable[..., Tensor], parts: Mapping[str, Tensor], grad_out: Tensor) -> Work:
    return Work(forward=lambda: (rule(**parts),), leaves=tuple(parts.values()), grad_outs=(grad_out,))


def layer_works(
    sizes: Sizes, backends: Mapping[str, Backend], *, d_model: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Work]:
    """A GDN layer with its parameters in `dtype`, its gates' in fp32, by backend; then its matrix products alone."""
    generator = torch.Generator(device).manual_seed(0)
    x_BTD, grad_BTD = (
        torch.randn(sizes.num_rows, sizes.num_tokens, d_model, generator=generator, device=device).to(dtype) for _ in range(2)
    )
    declared = gdn_gate_parameters(_config(sizes, "auto", d_model))
    gates = GateParameters(declared)
    init_weights(gates, declared, 0)
    gates.to(device)
    works = {}
    for name, backend in backends.items():
        layer = _layer(sizes, backend, d_model).to(device, dtype)
        leaves = (x_BTD.detach().requires_grad_(), *layer.parameters(), *gates.parameters())
        works[name] = Work(forward=partial(_outputs, layer, gates, leaves[0]), leaves=leaves, grad_outs=(grad_BTD,))
    return works | {"matrix products alone": products_work(layer, x_BTD)}


def peer_layer_work(sizes: Sizes, *, d_model: int, device: torch.device, dtype: torch.dtype) -> Work:
    """OLMo-core's layer, which takes fla's kernels for the convolutions and norms too."""
    from bench.olmo_core import build_peer_layer

    layer = build_peer_layer(
        d_model=d_model, num_heads=sizes.num_heads, key_dim=sizes.key_dim, value_dim=sizes.value_dim, device=device, dtype=dtype
    )
    x_BTD, grad_BTD = (torch.randn(sizes.num_rows, sizes.num_tokens, d_model, device=device).to(dtype) for _ in range(2))
    x_BTD.requires_grad_()
    return Work(forward=lambda: (layer(x_BTD),), leaves=(x_BTD, *layer.parameters()), grad_outs=(grad_BTD,))


def _outputs(layer: GatedDeltaNet, gates: GateParameters, x_BTD: Tensor) -> tuple[Tensor, ...]:
    return (layer(x_BTD, Context(gate=gates(), rotary=None, documents=None)),)


def _config(sizes: Sizes, backend: Backend | Literal["auto"], d_model: int) -> ModelConfig:
    return replace(
        PRESETS["olmo_hybrid_7b"],
        d_model=d_model,
        num_heads=sizes.num_heads,
        gdn_key_dim=sizes.key_dim,
        gdn_value_dim=sizes.value_dim,
        gdn_backend=backend,
    )


def _layer(sizes: Sizes, backend: Backend, d_model: int) -> GatedDeltaNet:
    config = _config(sizes, backend, d_model)
    layer = GatedDeltaNet(config, tp=None, cp=None)
    init_weights(layer, gdn_parameters(config), 0)
    return layer


def products_work(layer: GatedDeltaNet, x_BTD: Tensor) -> Work:
    """Each projection of the layer by itself, a and b as one of a multiple of 8 columns; nothing is added up."""
    num_heads, d_model = layer.a_proj.weight.shape
    a_and_b = Linear(projection(-(-2 * num_heads // 8) * 8, d_model, Cut.OUTPUT)).to(x_BTD)
    projections = (layer.q_proj, layer.k_proj, layer.v_proj, a_and_b, layer.g_proj, layer.o_proj)
    inputs = [x_BTD.new_zeros(*x_BTD.shape[:2], p.weight.shape[1]).normal_().requires_grad_() for p in projections]
    return Work(
        forward=lambda: tuple(each(x) for each, x in zip(projections, inputs, strict=True)),
        leaves=(*inputs, *(p.weight for p in projections)),
        grad_outs=tuple(x_BTD.new_zeros(*x_BTD.shape[:2], p.weight.shape[0]).normal_() for p in projections),
    )


def measure(works: Mapping[str, Work], stopwatches: Mapping[str, Stopwatch], *, rounds: int = ROUNDS) -> dict[str, Times]:
    """By phase. A candidate that raises is left out of the phase, with its reason."""
    found = {}
    for phase in PHASES:
        runs: dict[str, Run] = {}
        failures: dict[str, str] = {}
        for name, work in works.items():
            _tell(f"  {phase}: warming up {name}")
            try:
                runs[name] = _warm(work, phase)
            except Exception as error:  # noqa: BLE001 a peer that doesn't run here is a finding
                failures[name] = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        _tell(f"  {phase}: measuring")
        seconds = {kind: medians_s(runs, rounds=rounds, stopwatch=stopwatch) for kind, stopwatch in stopwatches.items()}
        found[phase] = Times(seconds=seconds, failures=failures)
    return found


def _warm(work: Work, phase: str) -> Run:
    """Compiles, and with fla tunes for minutes."""
    run = work.phase(phase)
    for _ in range(3):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return run


def table(title: str, found: Mapping[str, Times], goal: str) -> str:
    """By phase a line a candidate: each stopwatch's milliseconds, and how many times faster that is than the peer's."""
    lines = [title]
    for phase, times in found.items():
        for name in next(iter(times.seconds.values())):
            cells = [_cell(kind, seconds, name) for kind, seconds in times.seconds.items()]
            lines.append(f"  {phase:<20}{name:<23}{''.join(cells)}".rstrip())
        lines += [f"  {phase:<20}{name:<23}{reason}" for name, reason in times.failures.items()]
    return "\n".join([*lines, f"  wanted of ours, {PHASES[-1]}: {goal}"])


def _cell(kind: str, seconds: Mapping[str, float], name: str) -> str:
    peer = next(iter(BACKENDS))
    ratio = f"{seconds[peer] / seconds[name]:6.2f} ×" if peer in seconds else f"{'':8}"
    return f"{seconds[name] * 1e3:10.3f} ms {kind}{ratio}"


def _tell(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def run_on_gpu(names: Iterable[str]) -> bool:
    """Prints each case; whether ours ran in all of them."""
    lift_fla_guard()
    stopwatches: dict[str, Stopwatch] = {"device": DeviceStopwatch(), "wall": gpu_wall_s}
    device, gpu, is_whole = torch.device("cuda"), describe_gpu(), True
    for name in names:
        _tell(name)
        if name == LAYER:
            d_model = PRESETS["olmo_hybrid_7b"].d_model
            works = layer_works(OLMO, BACKENDS, d_model=d_model, device=device, dtype=torch.bfloat16)
            title, goal = f"GDN layer, D {d_model}, {OLMO}", LAYER_GOAL
            if importlib.util.find_spec("olmo_core"):
                works["fla"] = peer_layer_work(OLMO, d_model=d_model, device=device, dtype=torch.bfloat16)
                title += ", fla's in OLMo-core's layer"
        else:
            title, goal = f"gated delta rule, {RULES[name].sizes}", RULES[name].goal
            parts, grad_out = make_inputs(RULES[name].sizes, device, torch.bfloat16)
            works = {
                candidate: rule_work(partial(gated_delta_rule, documents=None, backend=backend), parts, grad_out)
                for candidate, backend in BACKENDS.items()
            }
        found = measure(works, stopwatches)
        is_whole &= all(set(times.failures) <= {next(iter(BACKENDS))} for times in found.values())
        print(table(f"{name}: {title}, bf16, {gpu}", found, goal), flush=True)
    return is_whole


def run_on_cpu() -> None:
    torch.set_num_threads(1)
    parts, grad_out = make_inputs(SMALL, torch.device("cpu"), torch.float32)
    rules: dict[str, Callable[..., Tensor]] = {
        "step by step, torch": definition.gated_delta_rule,
        "chunked, torch": partial(gated_delta_rule, documents=None, backend="torch"),
    }
    both = {name: rule_work(rule, parts, grad_out).phase(PHASES[-1]) for name, rule in rules.items()}
    print_ratios(f"gated delta rule, {PHASES[-1]}, {SMALL}, cpu", medians_s(both))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1 where ours didn't run."""
    parser = argparse.ArgumentParser(prog="python -m bench.gdn", description=(__doc__ or "").partition("\n")[0])
    cases = [*RULES, LAYER]
    parser.add_argument("--case", action="append", choices=cases, help="on a GPU; may be given again; all where none is")
    options = parser.parse_args(arguments)
    if torch.cuda.is_available():
        return 0 if run_on_gpu(options.case or cases) else 1
    if options.case:
        print(f"--case {options.case[0]}: there is no CUDA GPU here; leave --case out for the small comparison", file=sys.stderr)
        return 2
    run_on_cpu()
    return 0


if __name__ == "__main__":
    sys.exit(main())
