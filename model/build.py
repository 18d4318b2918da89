"""From a config to a sharded, initialised model."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor

from model.compute import ComputeConfig
from model.config import ModelConfig, validate_layout
from model.declare import Parameter, Parameters
from model.lm import HybridLM
from model.parallel.config import ParallelConfig
from model.parallel.mesh import Mesh
from model.recompute import checkpoint_activations
from model.weights.initial import init_weights

PLAIN = ComputeConfig()


def build_model(
    config: ModelConfig,
    mesh: Mesh | None,
    *,
    device: torch.device,
    seed: int,
    compute: ComputeConfig = PLAIN,
    compute_dtype: torch.dtype = torch.float32,
) -> HybridLM:
    """The model on `device`, sharded over `mesh`, with the initial weights of `seed`: the same in every layout.

    Master weights, gradients and reductions are fp32 (fp64 with compute_dtype float64); `compute_dtype` is that of the forward.
    mesh=None is one process without torch.distributed. Raises ValueError for a layout that the model can't have.
    """
    model = shard_model(config, mesh, device=device, compute=compute, compute_dtype=compute_dtype)
    init_weights(model, model.declared, seed)
    return model


def shard_model(
    config: ModelConfig, mesh: Mesh | None, *, device: torch.device, compute: ComputeConfig, compute_dtype: torch.dtype
) -> HybridLM:
    """As `build_model`, but with memory that nobody has filled yet."""
    validate_layout(config, mesh.parallel if mesh is not None else ParallelConfig())
    tp, cp = (mesh.tp, mesh.cp) if mesh is not None else (None, None)
    with torch.device("meta"):
        model = HybridLM(config, dtype=compute_dtype, tp=tp, cp=cp).to(torch.promote_types(compute_dtype, torch.float32))
    require_declared(model, model.declared)
    if tp is not None:
        _shard_over_heads(model, model.declared, tp)
    # The compiler can't trace a whole block's recomputation under tensor parallelism; recomputing a compiled block is as good.
    compiles_first = compute.activation_checkpointing == "full"
    if compute.compile and compiles_first:
        _compile_blocks(model)
    checkpoint_activations(model, compute)
    if compute.compile and not compiles_first:
        _compile_blocks(model)
    if mesh is not None and mesh.fsdp.size() > 1:  # who holds all of every parameter has no use for FSDP's copies of them
        _shard_over_data(model, mesh.fsdp, compute_dtype)
    model.to_empty(device=device)
    return model


def require_declared(model: nn.Module, declared: Parameters) -> None:
    """Raises ValueError unless the model's parameters are those that its parts declare, in the declared shapes."""
    found = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in found.items():
        if name not in declared:
            raise ValueError(f"{name}: a parameter that nobody declares; say what it is where its layer does (see model.declare)")
        if shape != declared[name].shape:
            raise ValueError(f"{name}: its shape is {list(shape)}, declared {list(declared[name].shape)}; build it from its declaration")
    for name in declared:
        if name not in found:
            raise ValueError(f"{name}: declared, but the model has no such parameter; remove the declaration, or build it")


def tp_placement(parameter: Parameter) -> Placement:
    """Where tensor parallelism has a parameter: a share of one dimension on each rank, or all of it on every rank."""
    return Replicate() if parameter.cut.value is None else Shard(parameter.cut.value)


def _compile_blocks(model: HybridLM) -> None:
    """All blocks share a cache: a graph for each kind of layer, and for each of the few shapes and modes that a run has."""
    torch._dynamo.config.recompile_limit = 64
    for block in model.layers:
        block.compile(fullgraph=True)


def _shard_over_heads(model: nn.Module, declared: Parameters, tp: DeviceMesh) -> None:
    for name, parameter in list(model.named_parameters()):
        module_name, _, short_name = name.rpartition(".")
        shard = distribute_tensor(parameter, tp, [tp_placement(declared[name])])
        model.get_submodule(module_name).register_parameter(short_name, nn.Parameter(shard))


def _shard_over_data(model: HybridLM, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
    """One FSDP group per block, one for embedding, last norm and head, and one for all gates, which compute in fp32.

    Inputs are not cast: the blocks' are in `compute_dtype` from the embedding on, but for gates and rotary tables, which stay fp32.
    """
    master_dtype = torch.promote_types(compute_dtype, torch.float32)
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=master_dtype, cast_forward_inputs=False)
    if any(True for _ in model.gates.parameters()):
        fully_shard(
            model.gates,
            mesh=mesh,
            mp_policy=MixedPrecisionPolicy(reduce_dtype=master_dtype, cast_forward_inputs=False),
        )
    for block in model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=mesh.shape[-1] > 1)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "loss_sum")
    model.register_forward_hook(_reshard_after_evaluation)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the loss is already a mean over the global batch: gradients are summed, not averaged
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _reshard_after_evaluation(model: nn.Module, _inputs: object, _logits: object) -> None:
    """FSDP keeps parameters gathered for the backward; where none follows, they must not be what a load or save sees."""
    if not torch.is_grad_enabled():
        reshard(model)


def reshard(model: nn.Module) -> None:
    """Lets go of all parameters that FSDP has gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
