"""What a layout needs of each GPU's memory: `python -m bench.memory --preset olmo_hybrid_7b --layout tp=2,dp_shard=64`.

With --check: predictions against what small models take on this machine, in each mode of activation checkpointing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.build import build_model, reshard
from model.compute import ComputeConfig
from model.config import ModelConfig
from model.costs.memory import predict_memory
from model.lm import HybridLM
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from model.parallel.collectives import local
from model.parallel.config import ParallelConfig
from model.parallel.mesh import build_mesh
from model.presets import HYBRID, OLMO3, PRESETS

Mode = Literal["none", "selective", "full", "memory_budget"]
MODES: tuple[Mode, ...] = ("none", "selective", "full")
"""Those that need no compiler."""
GIB = 2**30
TOLERANCE = 0.1
"""How far a prediction may be off."""
SMALL = ModelConfig(
    vocab_size=2048, d_model=128, num_layers=4, num_heads=4, head_dim=32, gdn_key_dim=24, gdn_value_dim=48, ffn_width=352, window=64
)
"""What is checked on a CPU, with rows of 512 tokens; on a GPU it is the 190M presets with 8192."""


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of the tensors that were made under it and are alive."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[int, StorageWeakRef] = {}
        self._watches_peak = False
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.device.type != "meta":
                storage = StorageWeakRef((x.to_local() if isinstance(x, DTensor) else x).untyped_storage())
                self._storages.setdefault(storage.cdata, storage)
        if self._watches_peak:
            self.peak = max(self.peak, self.allocated())
        return out

    def allocated(self) -> int:
        # None where one is gone; taken hold of, since threads of gloo may let go of one at any moment. FSDP resizes them.
        alive = {key: torch.UntypedStorage._new_with_weak_ptr(key) for key in self._storages}
        self._storages = {key: storage for key, storage in self._storages.items() if alive[key] is not None}
        return sum(storage.nbytes() for storage in alive.values() if storage is not None)

    def watch_peak(self) -> None:
        """From here on."""
        self._watches_peak, self.peak = True, 0


class CudaAllocator(nullcontext):
    """The same of a GPU, from torch's allocator: the workspaces of kernels count as well."""

    def __init__(self) -> None:
        super().__init__()
        self._before = torch.cuda.memory_allocated()

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() - self._before

    def allocated(self) -> int:
        return torch.cuda.memory_allocated() - self._before

    def watch_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats()


def measure(
    config: ModelConfig,
    parallel: ParallelConfig,
    compute: ComputeConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    seq_len: int,
) -> dict[str, int]:
    """Bytes of this rank by the parts of `MemoryPrediction` that can be told apart, and the most in a micro-batch that is not the first.

    Where there is a default process group, over its ranks.
    """
    mesh = build_mesh(parallel, device.type) if dist.is_initialized() else None
    meter = CudaAllocator() if device.type == "cuda" else LiveStorages()
    with meter:
        model = build_model(config, mesh, device=device, seed=0, compute=compute, compute_dtype=dtype)
        optimizer = build_optimizer(model, model.declared, OptimizerConfig())
        tokens_BT = torch.randint(config.vocab_size, (rows, seq_len // parallel.cp), device=device)
        _accumulate(model, tokens_BT, compute)
        with torch.no_grad():
            idle = _allocated_after_forward(model, tokens_BT, meter)
        activations = _allocated_after_forward(model, tokens_BT, meter) - idle - _copy_of_head(model, dtype)
        meter.watch_peak()
        _accumulate(model, tokens_BT, compute)
        parameters = list(model.parameters())
        return {
            "parameters": _bytes_of(parameters),
            "gradients": _bytes_of([parameter.grad for parameter in parameters]),
            "optimizer": _bytes_of(tree_leaves(list(optimizer.state.values()))),
            "activations": activations,
            "total": meter.peak,
        }


def _accumulate(model: HybridLM, tokens_BT: Tensor, compute: ComputeConfig) -> None:
    model.loss_sum(tokens_BT, tokens_BT, z_loss=1e-5, chunk_tokens=compute.loss_chunk_tokens)[0].backward()


def _allocated_after_forward(model: HybridLM, tokens_BT: Tensor, meter: LiveStorages | CudaAllocator) -> int:
    logits_BTX = model(tokens_BT)
    reshard(model)  # what FSDP has gathered are no activations
    if dist.is_initialized():
        dist.barrier()  # the threads of gloo let go of what they sent a little later
    allocated = meter.allocated()
    del logits_BTX
    return allocated


def _copy_of_head(model: HybridLM, dtype: torch.dtype) -> int:
    """The narrow weight that the logits' backward would need: training makes one for its loss alone."""
    has_one = dtype != model.head.weight.dtype and not isinstance(model, FSDPModule)
    return local(model.head.weight).numel() * dtype.itemsize if has_one else 0


def _bytes_of(tensors: Sequence[Tensor | None]) -> int:
    """On this rank."""
    return sum(local(x).numel() * x.element_size() for x in tensors if x is not None)


def compare(
    config: ModelConfig, parallel: ParallelConfig, mode: Mode, *, device: torch.device, dtype: torch.dtype, rows: int, seq_len: int
) -> dict[str, tuple[int, int]]:
    """By part, the bytes predicted and measured."""
    compute = ComputeConfig(activation_checkpointing=mode, loss_chunk_tokens=256)
    measured = measure(config, parallel, compute, device=device, dtype=dtype, rows=rows, seq_len=seq_len)
    predicted = predict_memory(
        config,
        parallel,
        compute,
        OptimizerConfig(),
        micro_rows=rows,
        seq_len=seq_len,
        compute_bytes=dtype.itemsize,
        device_type=device.type,
    )
    parts = asdict(predicted) | {"total": predicted.total}
    return {name: (parts[name], measured[name]) for name in measured}


def is_close(compared: Mapping[str, tuple[int, int]]) -> bool:
    return all(abs(predicted / measured - 1) <= TOLERANCE for predicted, measured in compared.values())


def check() -> bool:
    """Prints predicted, measured and their ratio; whether all ratios are within TOLERANCE of 1."""
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        models = {name: PRESETS[name] for name in ("olmo_hybrid_190m", "olmo3_190m")}
        device, dtype, rows, seq_len = torch.device("cuda"), torch.bfloat16, 1, 8192
    else:
        hybrid = replace(SMALL, layer_pattern=HYBRID)
        models = {
            "hybrid": hybrid,
            "grouped values": replace(hybrid, gdn_num_value_heads=8),
            "transformer": replace(SMALL, layer_pattern=OLMO3),
        }
        device, dtype, rows, seq_len = torch.device("cpu"), torch.float32, 1, 512
    all_close = True
    for name, config in models.items():
        for mode in MODES:
            compared = compare(config, ParallelConfig(), mode, device=device, dtype=dtype, rows=rows, seq_len=seq_len)
            print(f"{name}, {rows} × {seq_len} tokens, {device}, {dtype}, checkpointing {mode}")
            for part, (predicted, measured) in compared.items():
                print(f"  {part:<12}{predicted / 2**20:12.2f} MiB predicted {measured / 2**20:12.2f} measured {predicted / measured:8.3f}")
            all_close &= is_close(compared)
    return all_close


def table(model: ModelConfig, layout: ParallelConfig, optimizer: OptimizerConfig, *, rows: int, seq_len: int, chunk_tokens: int) -> str:
    """GiB of the fullest GPU by part, a line for each mode of activation checkpointing. Raises ValueError for a wrong layout."""
    sharing = layout.cp * layout.tp
    lines = [f"{layout}: {rows} × {seq_len} tokens at once on {f'every {sharing} GPUs' if sharing > 1 else 'every GPU'}; GiB of each GPU"]
    modes: tuple[Mode, ...] = (*MODES, "memory_budget")
    for mode in modes:
        compute = ComputeConfig(activation_checkpointing=mode, compile=mode == "memory_budget", loss_chunk_tokens=chunk_tokens)
        predicted = predict_memory(model, layout, compute, optimizer, micro_rows=rows, seq_len=seq_len)
        parts = asdict(predicted) | {"total": predicted.total}
        if mode == MODES[0]:
            lines.append("".join([f"{'checkpointing':<16}", *(f"{part:>13}" for part in parts)]))
        lines.append("".join([f"{mode:<16}", *(f"{size / GIB:13.2f}" for size in parts.values())]))
    return "\n".join(lines)


def parse_layout(text: str) -> ParallelConfig:
    """From `tp=2,dp_shard=64`. Raises ValueError for anything else."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in ("dp_replicate", "dp_shard", "cp", "tp") or not size.isdigit():
            raise ValueError(f"--layout {text}: {part!r} is no axis and size; use dp_replicate, dp_shard, cp and tp: tp=2,dp_shard=64")
        if axis in sizes:
            raise ValueError(f"--layout {text}: {axis} is there twice; give each axis once")
        sizes[axis] = int(size)
    return ParallelConfig(**sizes)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="olmo_hybrid_7b", metavar="NAME", help=", ".join(PRESETS))
    parser.add_argument("--layout", action="append", default=[], help="as in tp=2,dp_shard=64; may be given again")
    parser.add_argument("--rows", type=_positive, default=1, help="rows of a micro-batch")
    parser.add_argument("--seq-len", type=_positive, default=8192, help="tokens of a row")
    parser.add_argument(
        "--chunk-tokens", type=_positive, default=ComputeConfig().loss_chunk_tokens, help="tokens whose logits exist at once"
    )
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--check", action="store_true", help="compare predictions with small models on this machine")
    options = parser.parse_args(arguments)
    if options.check:
        return 0 if check() else 1
    try:
        layouts = [parse_layout(text) for text in options.layout] or [ParallelConfig()]
        optimizer = OptimizerConfig(name=options.optimizer)
        sizes = {"rows": options.rows, "seq_len": options.seq_len, "chunk_tokens": options.chunk_tokens}
        tables = [table(PRESETS[options.preset], layout, optimizer, **sizes) for layout in layouts]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n\n".join([options.preset, *tables]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
