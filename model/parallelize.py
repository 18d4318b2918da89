"""From a config to a sharded, initialised model."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

from model.config import ModelConfig, ParallelConfig, validate_layout
from model.gdn import Gates
from model.init import init_weights
from model.model import HybridLM

ROW_WISE = ("o_proj", "down_proj")
REPLICATED = ("norm", "mixer_norm", "ffn_norm", "o_norm")


def build_model(
    config: ModelConfig,
    parallel: ParallelConfig,
    mesh: DeviceMesh | None,
    *,
    device: torch.device,
    seed: int,
    compute_dtype: torch.dtype = torch.float32,
) -> HybridLM:
    """The model on `device`, sharded as `parallel` says over `mesh` (axes dp_shard and tp); the same weights for a seed in every layout.

    Master weights, gradients and reductions are fp32 (fp64 with compute_dtype float64); `compute_dtype` is that of the forward.
    mesh=None is one process without torch.distributed. Raises ValueError for a layout that the model can't have.
    """
    validate_layout(config, parallel)
    if mesh is None and (parallel.world_size > 1 or compute_dtype == torch.bfloat16):
        raise ValueError(f"parallel={parallel}, {compute_dtype}: sharding and mixed precision need a mesh; build one with titan.build_mesh")
    tp = mesh["tp"] if mesh is not None and parallel.tp > 1 else None
    with torch.device("meta"):
        model = HybridLM(config, tp).to(torch.promote_types(compute_dtype, torch.float32))
    if tp is not None:
        _shard_over_heads(model, tp)
    if mesh is not None:
        _shard_over_data(model, mesh["dp_shard"], compute_dtype)
    model.to_empty(device=device)
    init_weights(model, seed)
    return model


def tp_placement(parameter_name: str) -> Placement:
    """Where tensor parallelism cuts a parameter: output channels (whole heads, vocabulary rows), input channels, or nowhere."""
    module_name = parameter_name.split(".")[-2]
    if module_name in REPLICATED:
        return Replicate()
    return Shard(1) if module_name in ROW_WISE else Shard(0)


def _shard_over_heads(model: nn.Module, tp: DeviceMesh) -> None:
    for name, parameter in list(model.named_parameters()):
        module_name, _, short_name = name.rpartition(".")
        shard = distribute_tensor(parameter, tp, [tp_placement(name)])
        model.get_submodule(module_name).register_parameter(short_name, nn.Parameter(shard))


def _shard_over_data(model: HybridLM, dp: DeviceMesh, compute_dtype: torch.dtype) -> None:
    """One FSDP group per block, one for embedding, last norm and head, and one per GDN layer for the gates, which compute in fp32."""
    master_dtype = torch.promote_types(compute_dtype, torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=master_dtype)
    gates_policy = MixedPrecisionPolicy(param_dtype=master_dtype, reduce_dtype=master_dtype, cast_forward_inputs=False)
    for module in model.modules():
        if isinstance(module, Gates):
            fully_shard(module, mesh=dp, mp_policy=gates_policy)
    for block in model.layers:
        fully_shard(block, mesh=dp, mp_policy=policy)
    fully_shard(model, mesh=dp, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the loss is already a mean over the global batch: gradients are summed, not averaged
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
