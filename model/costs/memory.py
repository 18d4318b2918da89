"""What a layout needs of a GPU's memory, by formula, before anybody pays for it. Pure.

Counted is the fullest rank at the fullest moment of a step that accumulates gradients over several micro-batches. Not counted: the
CUDA context, NCCL's buffers, and what the allocator loses between the pieces, together some GiB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod

from model.compute import ComputeConfig
from model.config import ModelConfig, validate_layout
from model.costs.activations import activation_bytes, recomputed_bytes
from model.declare import Parameter, Shape
from model.optim.config import OptimizerConfig
from model.optim.groups import takes_muon
from model.parallel.config import ParallelConfig
from model.parameters import model_parameters
from model.share import WIDE, Share


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPrediction:
    """Bytes on the fullest rank."""

    parameters: int
    """The fp32 shard."""
    gradients: int
    """The fp32 shard."""
    optimizer: int
    """AdamW's two moments of the shard, or Muon's one."""
    activations: int
    """What the forward keeps for the backward, without FSDP also the narrow copies of the weights."""
    unsharded: int
    """Parameters that FSDP has gathered, and gradients that it has yet to scatter, beyond what room the activations have left; without
    FSDP gradients that are yet to be added."""
    working: int
    """What comes and goes: a chunk of logits and the head's gradient, or what one block's backward computes."""

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def state(self) -> int:
        """What is kept of training: in checkpoints, and in snapshots."""
        return self.parameters + self.optimizer


def predict_memory(
    model: ModelConfig,
    parallel: ParallelConfig,
    compute: ComputeConfig,
    optimizer: OptimizerConfig,
    *,
    micro_rows: int,
    seq_len: int,
    compute_bytes: int = 2,
    device_type: str = "cuda",
) -> MemoryPrediction:
    """For micro-batches of `micro_rows` × `seq_len` tokens (a row's tokens are those of all its cp ranks), computed in bf16, or with
    compute_bytes=4 in fp32, with the kernels of `device_type`. A compiled block keeps at most what is predicted. Raises ValueError for a
    layout that the model can't have.
    """
    validate_layout(model, parallel)
    share = Share(parallel=parallel, compute=compute, rows=micro_rows, seq_len=seq_len, narrow=compute_bytes, device_type=device_type)
    parameters = model_parameters(model)
    num_shards = parallel.dp_shard * parallel.cp
    shard = {name: _fullest_shard(parameter.shape_on(parallel.tp), num_shards) for name, parameter in parameters.items()}
    activations, unsharded, working = _what_a_step_adds(model, share, *_group_sizes(parameters, parallel.tp))
    return MemoryPrediction(
        parameters=WIDE * sum(shard.values()),
        gradients=WIDE * sum(shard.values()),
        optimizer=sum(size * _state_bytes(parameters[name], optimizer) for name, size in shard.items()),
        activations=activations,
        unsharded=unsharded,
        working=working,
    )


def _what_a_step_adds(model: ModelConfig, share: Share, block: int, root: int) -> tuple[int, int, int]:
    """`activations`, `unsharded` and `working`, by the number of elements of the largest block and of what is in none."""
    activations, parallel = activation_bytes(model, share), share.parallel
    if parallel.dp_replicate * parallel.dp_shard * parallel.cp > 1:
        return activations, *max(_moments(model, share, activations, block, root), key=sum)
    activations += _copies(model, share, block)
    return activations, *max(_moments_without_fsdp(model, share, activations, block), key=sum)


def _moments(model: ModelConfig, share: Share, activations: int, block: int, root: int) -> list[tuple[int, int]]:
    """`unsharded` and `working` where they may be most; FSDP gathers a `block` of so many elements, and `root` that are in no block."""
    narrow = share.narrow
    num_shards = share.parallel.dp_shard * share.parallel.cp
    staying = block * model.num_layers if num_shards == 1 else 0  # what is in one piece stays gathered
    loss = narrow * (root + staying), _loss_bytes(model, share)
    # This block and the next, this one's gradients, the last one's on their way to their shards, and the head's gradient.
    blocks = narrow * (root + max(2 * block, staying) + block + _elements_of_head(model, share)) + WIDE * block
    backward = blocks, _backward_bytes(model, share)
    # The root's parameters, their gradients, and these once more in fp32, all of them and this rank's shard; the activations are gone.
    its_shard = root // num_shards
    end = 2 * narrow * root + WIDE * (root + its_shard) - activations, 0
    return [loss, backward, end]


def _copies(model: ModelConfig, share: Share, block: int) -> int:
    """What the forward keeps of the narrow weights that it computed with. Checkpointing makes them again, block by block."""
    kept = {"none": 1.0, "memory_budget": share.compute.memory_budget}.get(share.compute.activation_checkpointing, 0.0)
    return round(kept * share.narrow * block * model.num_layers) if share.narrow < WIDE else 0


def _moments_without_fsdp(model: ModelConfig, share: Share, activations: int, block: int) -> list[tuple[int, int]]:
    """`unsharded` and `working` of a rank that holds all parameters."""
    narrow, head = share.narrow if share.narrow < WIDE else 0, _elements_of_head(model, share)
    loss = 0, narrow * head + _loss_bytes(model, share)
    gate_and_up = 2 * model.d_model * model.ffn_width // share.parallel.tp
    again = 0 if _copies(model, share, block) else narrow * block
    backward = WIDE * gate_and_up, again + _backward_bytes(model, share)
    return [loss, backward, (WIDE * head - activations, 0)]  # at the end the embedding's gradient


def _loss_bytes(model: ModelConfig, share: Share) -> int:
    """The gradient of the head's input, that of its weight in fp32, and the larger of two: that gradient scaled, or a chunk of logits.

    On a GPU, and in fp32, logits become their gradient in place; else they are there as they are, in fp32, and as their gradient.
    """
    narrow = share.narrow
    is_in_place = share.device_type == "cuda" or narrow == WIDE
    chunk_tokens = min(share.compute.loss_chunk_tokens, share.of_tokens(0, whole=1))
    chunk = chunk_tokens * _rows_of_head(model, share) * (narrow if is_in_place else WIDE + 2 * narrow)
    head = _elements_of_head(model, share)
    return share.of_tokens(0, whole=model.d_model * narrow) + head * WIDE + max(head * narrow, chunk)


def _backward_bytes(model: ModelConfig, share: Share) -> int:
    """What is recomputed of a block, and the gradients that its backward holds at once in its fullest place, the feed-forward.

    When the delta rule goes backward, with the states of every chunk, more than that of what the forward kept is gone.
    """
    feed_forward = share.of_tokens(model.ffn_width * share.narrow, whole=2 * model.d_model * share.narrow)
    return feed_forward + max(recomputed_bytes(model, kind, share) for kind in set(model.layer_kinds))


def _elements_of_head(model: ModelConfig, share: Share) -> int:
    """Elements of the head on a tp rank."""
    return _rows_of_head(model, share) * model.d_model


def _rows_of_head(model: ModelConfig, share: Share) -> int:
    return -(-model.vocab_size // share.parallel.tp)


def _group_sizes(parameters: Mapping[str, Parameter], tp: int) -> tuple[int, int]:
    """Elements on a tp rank of the largest block, and of what is in no block."""
    sizes: dict[str, int] = {}
    for name, parameter in parameters.items():
        group = ".".join(name.split(".")[:2]) if name.startswith("layers.") else ""
        sizes[group] = sizes.get(group, 0) + prod(parameter.shape_on(tp))
    root = sizes.pop("")
    return max(sizes.values()), root


def _fullest_shard(shape: Shape, num_shards: int) -> int:
    """Elements: FSDP deals rows."""
    return -(-shape[0] // num_shards) * prod(shape[1:])


def _state_bytes(parameter: Parameter, optimizer: OptimizerConfig) -> int:
    """Bytes of optimizer state for each element of the parameter."""
    return WIDE if optimizer.name == "muon" and takes_muon(parameter) else 2 * WIDE
