"""Whether a GPU computes what it should: every kernel of a layer, and of the loss, forward and backward, and the optimizer's, against its
definition in fp64.

What a bad GPU or a compiler's mistake costs otherwise is a run: wrong gradients train, for a while. It takes seconds, most of them
spent on compiling kernels that the training then finds compiled.
"""

import importlib.metadata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from model.config import TRITON_CONV_WIDTH, Backend, ModelConfig, ParallelConfig
from model.documents import Documents, build_documents
from model.kernels.delta_rule.operator import gated_delta_rule
from model.kernels.gates import operator as gates_triton
from model.layers.head import IGNORED, cross_entropy_sum, head_loss_sum
from model.layers.layers import RMSNorm, swiglu
from model.mixers.attention.layer import rotary_tables, rotate
from model.mixers.gdn.layer import CausalConv, GatedHeadNorm, decay_and_beta, l2_normalise
from model.optim import adamw

TOLERANCE = 2e-2
"""Of ‖found − exact‖ / ‖exact‖ per tensor, in bf16. Right kernels stay under 1e-2; a wrong tile or a broken unit is 1e-1 and more."""
NUM_TOKENS = 1024
LOSS_TOKENS, LOSS_VOCABULARY, LOSS_Z = 256, 5008, 1e-3
"""Rows of more than one tile, which loads as wide as the training's fit."""
ADAMW_SIZE = 50016
"""More than whole blocks, and a multiple of 16, as matrices are."""

Compute = Callable[..., tuple[Tensor, ...]]
"""(backend, *inputs) → outputs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Of one rank's layers: its own heads and channels."""

    d_model: int
    ffn_width: int
    num_heads: int
    head_dim: int
    key_dim: int
    """Of GDN heads, as value_dim; 0 where there are none."""
    value_dim: int
    is_packed: bool = True
    """Rows hold several documents: other variants of the kernels."""
    num_tokens: int = NUM_TOKENS


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One of the kernels, or several that are only used together."""

    name: str
    compute: Compute
    inputs: dict[str, Tensor]
    """bf16 for what is bf16 in training, fp32 for the rest."""


def sizes_on_rank(model: ModelConfig, parallel: ParallelConfig, *, is_packed: bool = True) -> Sizes:
    """Tensor and context parallelism share the heads: kernels are compiled for a rank's number of them."""
    has_gdn = "gdn" in model.layer_kinds
    return Sizes(
        d_model=model.d_model,
        ffn_width=model.ffn_width // parallel.tp,
        num_heads=model.num_heads // (parallel.tp * parallel.cp),
        head_dim=model.head_dim,
        key_dim=model.gdn_key_dim if has_gdn else 0,
        value_dim=model.gdn_value_dim if has_gdn else 0,
        is_packed=is_packed,
    )


def find_wrong_kernel(sizes: Sizes, *, backend: Backend, device: torch.device) -> str:
    """One line that names the kernel, the tensor, how far off it is and where; "" if every kernel is right, run after run."""
    stages = [*_small_stages(sizes, device), *(_gdn_stages(sizes, device) if sizes.key_dim else ())]
    num_threads = 1 if device.type == "cpu" else len(stages)  # most of the time goes to compilers, which run side by side
    with ThreadPoolExecutor(num_threads) as pool:
        found = [
            f"{stage.name}, {wrong}" for stage, wrong in zip(stages, pool.map(_examine(backend, device), stages), strict=True) if wrong
        ]
    if not found:
        return ""
    heads = f"{sizes.num_heads} heads × ({sizes.key_dim}, {sizes.value_dim})"
    return f"{_name(device)}: {found[0]}; gdn_backend {backend}, {heads}, torch {torch.__version__}{_triton_version()}"


def _examine(backend: Backend, device: torch.device) -> Callable[[Stage], str]:
    """What is wrong with one stage, in a thread of its own: its device, and its backward too, which torch would do in another one."""

    def examine(stage: Stage) -> str:
        try:
            with torch.cuda.device(device) if device.type == "cuda" else nullcontext(), torch.autograd.set_multithreading_enabled(False):
                return _compare(stage, backend)
        except Exception as error:  # noqa: BLE001 whatever driver, compiler or kernel throws is the finding
            return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"

    return examine


def _compare(stage: Stage, backend: Backend) -> str:
    """What is wrong with the stage; "" if nothing is."""
    found, again = (_run(stage, stage.inputs, backend) for _ in range(2))
    exact = _run(stage, {name: x.double() for name, x in stage.inputs.items()}, "torch")
    for name, x in found.items():
        distance = ((x.double() - exact[name]).norm() / exact[name].norm()).item()
        if not distance <= TOLERANCE:
            return f"{name}: {distance:.2g} off, {TOLERANCE:g} allowed"
        if not torch.equal(x, again[name]):
            return f"{name}: two runs differ"
    return ""


def _run(stage: Stage, inputs: dict[str, Tensor], backend: Backend) -> dict[str, Tensor]:
    """Outputs and, unless it has none, gradients by name."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    outs = stage.compute(backend, **leaves)
    by_name = {f"output {i}": out.detach() for i, out in enumerate(outs)}
    if not outs[0].requires_grad:
        return by_name
    weights = [torch.linspace(1, 3e3, out.numel(), device=out.device, dtype=torch.float64).sin().view(out.shape) for out in outs]
    gradients = torch.autograd.grad(outs, list(leaves.values()), [w.bfloat16().to(out.dtype) for w, out in zip(weights, outs, strict=True)])
    return by_name | {f"gradient of {name}": grad for name, grad in zip(leaves, gradients, strict=True)}


def _noise_on(device: torch.device) -> Callable[..., Tensor]:
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    return noise


def _small_stages(sizes: Sizes, device: torch.device) -> Iterator[Stage]:
    """Norms, feed-forward, rotation, loss and optimizer; these take their kernels on a GPU, whatever the backend, and in fp64 none."""
    noise, tokens = _noise_on(device), sizes.num_tokens
    inputs = {"x": noise(1, tokens, sizes.d_model), "y": noise(1, tokens, sizes.d_model), "weight": noise(sizes.d_model)}
    yield Stage(name="norms", compute=_norms, inputs=inputs)
    inputs = {name: noise(1, tokens, sizes.ffn_width) for name in ("gate", "up")}
    yield Stage(name="swiglu", compute=lambda backend, gate, up: (swiglu(gate, up),), inputs=inputs)
    if sizes.head_dim % 2 == 0:
        position_BT = torch.arange(tokens, device=device).unsqueeze(0)
        rotary = rotary_tables(position_BT, head_dim=sizes.head_dim, theta=5e5, dtype=torch.float32)
        inputs = {"x": noise(1, tokens, sizes.num_heads, sizes.head_dim)}
        yield Stage(name="rotation", compute=lambda backend, x: (rotate(x, rotary),), inputs=inputs)
    labels = torch.arange(LOSS_TOKENS, device=device).unsqueeze(0) * 9973 % LOSS_VOCABULARY
    labels[:, ::7] = IGNORED
    yield Stage(name="loss", compute=_loss(labels), inputs={"x": noise(1, LOSS_TOKENS, 64), "weight": noise(LOSS_VOCABULARY, 64) / 4})
    inputs = {name: noise(ADAMW_SIZE, dtype=torch.float32) for name in ("parameter", "grad", "exp_avg", "exp_avg_sq")}
    yield Stage(name="adamw", compute=_adamw, inputs=inputs | {"exp_avg_sq": inputs["exp_avg_sq"].square()})


def _norms(backend: Backend, x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Alone, of a sum, and added to something."""
    return functional_call(_Norms(x.shape[-1]), {"norm.weight": weight}, (x, y))


class _Norms(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, eps=1e-6)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return self.norm(x), *self.norm.of_sum(x, y), self.norm.added_to(x, y)


def _gdn_stages(sizes: Sizes, device: torch.device) -> Iterator[Stage]:
    heads, tokens, key_dim, value_dim = sizes.num_heads, sizes.num_tokens, sizes.key_dim, sizes.value_dim
    starts = torch.tensor([0, 1, tokens // 3, tokens // 2 + 3, tokens])
    documents = build_documents(starts, num_rows=1, num_tokens=tokens, device=device) if sizes.is_packed else None
    noise = _noise_on(device)
    keys, values = (1, tokens, heads, key_dim), (1, tokens, heads, value_dim)
    for name, width, head_dim in (("keys", key_dim, key_dim), ("values", value_dim, None)):
        inputs = {"x": noise(1, tokens, heads * width), "weight": noise(heads * width, 1, 4)}
        yield Stage(name=f"convolution of {name}", compute=_convolution(documents, head_dim), inputs=inputs)
    inputs = {name: noise(1, tokens, heads) for name in ("a", "b")}
    inputs |= {name: noise(heads, dtype=torch.float32) for name in ("A_log", "dt_bias")}
    yield Stage(name="gates", compute=_gates, inputs=inputs)
    log_decay, beta = decay_and_beta(*inputs.values())
    inputs = {name: l2_normalise(noise(*keys), scale=1.0) for name in ("q", "k")}
    inputs |= {"v": noise(*values), "log_decay": log_decay, "beta": beta}
    yield Stage(name="delta rule", compute=_delta_rule(documents), inputs=inputs)
    inputs = {"x": noise(*values), "gate": noise(*values), "weight": noise(value_dim)}
    yield Stage(name="gated norm", compute=_gated_norm, inputs=inputs)


def _convolution(documents: Documents | None, head_dim: int | None) -> Compute:
    """Of keys, normalised, where there is a `head_dim`; else of values."""

    def compute(backend: Backend, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        conv = _Convolution(x.shape[2], head_dim)
        return (functional_call(conv, {"conv.weight": weight}, (x, documents, backend)),)

    return compute


class _Convolution(nn.Module):
    def __init__(self, channels: int, head_dim: int | None) -> None:
        super().__init__()
        self.conv, self.head_dim = CausalConv(channels, TRITON_CONV_WIDTH, None), head_dim

    def forward(self, x_BTC: Tensor, documents: Documents | None, backend: Backend) -> Tensor:
        if self.head_dim is None:
            return self.conv(x_BTC, documents, backend)
        return self.conv.normalised(x_BTC, documents, backend, head_dim=self.head_dim, scale=1.0)


def _gates(backend: Backend, a: Tensor, b: Tensor, A_log: Tensor, dt_bias: Tensor) -> tuple[Tensor, ...]:
    compute = gates_triton.decay_and_beta if backend == "triton" else decay_and_beta
    return compute(a, b, A_log, dt_bias)


def _delta_rule(documents: Documents | None) -> Compute:
    def compute(backend: Backend, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
        return (gated_delta_rule(q=q, k=k, v=v, log_decay=log_decay, beta=beta, documents=documents, backend=backend),)

    return compute


def _gated_norm(backend: Backend, x: Tensor, gate: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    norm = GatedHeadNorm(x.shape[-1], eps=1e-5)
    return (functional_call(norm, {"weight": weight}, (x, gate, backend)),)


def _loss(labels: Tensor) -> Compute:
    """With the head, since that is where its kernels are; in two chunks."""

    def compute(backend: Backend, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        if x.dtype == torch.float64:
            return (cross_entropy_sum(F.linear(x, weight), labels, LOSS_Z)[0],)
        return (head_loss_sum(x, weight, labels, z_loss=LOSS_Z, chunk_tokens=LOSS_TOKENS // 2, tp=None),)

    return compute


@torch.no_grad()
def _adamw(backend: Backend, parameter: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor) -> tuple[Tensor, ...]:
    """The third step, with settings of which each shows."""
    parameter, grad, exp_avg, exp_avg_sq = (x.clone() for x in (parameter, grad, exp_avg, exp_avg_sq))
    step, grad_scale = (torch.full((), 2.0, device=grad.device) for _ in range(2))
    settings = {"lr": 0.5, "beta1": 0.9, "beta2": 0.8, "eps": 0.1, "weight_decay": 0.3}
    adamw.update([parameter], [grad], [exp_avg], [exp_avg_sq], [step], grad_scale=grad_scale, **settings)
    return parameter, exp_avg, exp_avg_sq


def _name(device: torch.device) -> str:
    if device.type != "cuda":
        return str(device)
    found = torch.cuda.get_device_properties(device)
    return f"GPU {device.index} ({found.name}, {found.uuid})"


def _triton_version() -> str:
    try:
        return f", triton {importlib.metadata.version('triton')}"
    except importlib.metadata.PackageNotFoundError:
        return ""
