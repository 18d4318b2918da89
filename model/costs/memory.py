"""What a layout needs of a GPU's memory, by formula, before anybody pays for it. Pure.

Counted is the fullest rank at the fullest moment of a step that accumulates gradients over several micro-batches. Not counted: the
CUDA context, NCCL's buffers, and what the allocator loses between the pieces, together some GiB.
"""

from dataclasses import dataclass, fields
from math import prod

from model.config import ComputeConfig, ModelConfig, OptimizerConfig, ParallelConfig, validate_layout
from model.costs.parameters import GDN_CHUNK, REPLICATED, ROW_WISE, Shape, parameter_shapes
from model.optim.groups import takes_muon

WIDE = 4
"""Bytes of an fp32: master weights, gradients, optimizer state, norms and gates."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One rank's part in a micro-batch of `rows` × `seq_len` tokens."""

    model: ModelConfig
    parallel: ParallelConfig
    compute: ComputeConfig
    rows: int
    seq_len: int
    narrow: int
    """Bytes of an element of the forward: 2 for bf16, 4 for fp32."""
    device_type: str

    @property
    def is_fused(self) -> bool:
        """The small layers are our own kernels, which keep their inputs and nothing else: as `model.kernels.operators` has it."""
        return self.device_type == "cuda" and not self.compute.compile

    def norm(self, width: int) -> int:
        """Bytes per token that an RMSNorm saves: x; in plain torch x and x / rms in fp32, and 1 / rms."""
        return width * self.narrow if self.is_fused else (2 * width + 1) * WIDE

    def full_width_norm(self, width: int) -> int:
        """The same of one whose sum of squares crosses the tp ranks: that is plain torch everywhere."""
        return self.norm(width) if self.parallel.tp == 1 else (2 * width + 1) * WIDE

    def of_tokens(self, bytes_per_token: float, *, whole: float = 0.0, multiple: int = 1) -> int:
        """Bytes of which the tp ranks share `bytes_per_token` (by tokens between the mixers, by heads inside), and each has `whole`."""
        tokens = self.rows * _up_to_multiple(self.seq_len, multiple) / self.parallel.cp
        return round(tokens * (bytes_per_token / self.parallel.tp + whole))


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
    share = Share(
        model=model,
        parallel=parallel,
        compute=compute,
        rows=micro_rows,
        seq_len=seq_len,
        narrow=compute_bytes,
        device_type=device_type,
    )
    shapes = {name: _cut_by_tp(name, shape, parallel.tp) for name, shape in parameter_shapes(model).items()}
    shard = {name: _cut_by_fsdp(shape, parallel.dp_shard * parallel.cp) for name, shape in shapes.items()}
    activations, unsharded, working = _what_a_step_adds(share, *_group_sizes(shapes))
    return MemoryPrediction(
        parameters=WIDE * sum(shard.values()),
        gradients=WIDE * sum(shard.values()),
        optimizer=sum(size * _state_bytes(name, shapes[name], optimizer) for name, size in shard.items()),
        activations=activations,
        unsharded=unsharded,
        working=working,
    )


def _what_a_step_adds(share: Share, block: int, root: int) -> tuple[int, int, int]:
    """`activations`, `unsharded` and `working`, by the number of elements of a block and of what is in none."""
    activations, parallel = activation_bytes(share), share.parallel
    if parallel.dp_replicate * parallel.dp_shard * parallel.cp > 1:
        return activations, *max(_moments(share, activations, block, root), key=sum)
    activations += _copies(share, block)
    return activations, *max(_moments_without_fsdp(share, activations, block), key=sum)


def _moments(share: Share, activations: int, block: int, root: int) -> list[tuple[int, int]]:
    """`unsharded` and `working` where they may be most; FSDP gathers a `block` of so many elements, and `root` that are in no block."""
    narrow = share.narrow
    num_shards = share.parallel.dp_shard * share.parallel.cp
    staying = block * share.model.num_layers if num_shards == 1 else 0  # what is in one piece stays gathered
    loss = narrow * (root + staying), _loss_bytes(share)
    # This block and the next, this one's gradients, the last one's on their way to their shards, and the head's gradient.
    blocks = narrow * (root + max(2 * block, staying) + block + _elements_of_head(share)) + WIDE * block
    backward = blocks, max(_block_bytes(kind, share) for kind in set(share.model.layer_kinds))
    # The root's parameters, their gradients, and these once more in fp32, all of them and this rank's shard; the activations are gone.
    its_shard = root // num_shards
    end = 2 * narrow * root + WIDE * (root + its_shard) - activations, 0
    return [loss, backward, end]


def _copies(share: Share, block: int) -> int:
    """What the forward keeps of the narrow weights that it computed with. Checkpointing makes them again, block by block."""
    kept = {"none": 1.0, "memory_budget": share.compute.memory_budget}.get(share.compute.activation_checkpointing, 0.0)
    return round(kept * share.narrow * block * share.model.num_layers) if share.narrow < WIDE else 0


def _moments_without_fsdp(share: Share, activations: int, block: int) -> list[tuple[int, int]]:
    """`unsharded` and `working` of a rank that holds all parameters."""
    narrow, head = share.narrow if share.narrow < WIDE else 0, _elements_of_head(share)
    loss = 0, narrow * head + _loss_bytes(share)
    gate_and_up = 2 * share.model.d_model * share.model.ffn_width // share.parallel.tp
    again = 0 if _copies(share, block) else narrow * block
    backward = WIDE * gate_and_up, again + max(_block_bytes(kind, share) for kind in set(share.model.layer_kinds))
    return [loss, backward, (WIDE * head - activations, 0)]  # at the end the embedding's gradient


def activation_bytes(share: Share) -> int:
    """What the forward keeps for the backward, the head's input included and the loss not."""
    model, narrow = share.model, share.narrow
    ends = share.of_tokens(share.norm(model.d_model), whole=8 + model.d_model * narrow)  # the tokens; the last norm; the head's input
    tables = WIDE * share.seq_len * model.head_dim if model.rope_theta else 0
    return ends + tables + sum(kept_bytes(kind, share) for kind in model.layer_kinds)


def kept_bytes(kind: str, share: Share) -> int:
    """What a block of this kind keeps under the activation checkpointing of `share.compute`."""
    everything = saved_bytes(kind, share)
    block_input = share.of_tokens(share.model.d_model * share.narrow)
    match share.compute.activation_checkpointing:
        case "none":
            return everything
        case "full":
            return block_input
        case "selective":
            return block_input + _selected_bytes(kind, share)
        case _:
            return round(block_input + share.compute.memory_budget * (everything - block_input))


def saved_bytes(kind: str, share: Share) -> int:
    """What autograd saves in a block of this kind without checkpointing.

    Around the mixer and the feed-forward: two norms; the input of each, which all tp ranks hold in full; and of the feed-forward
    the gate, in plain torch its SiLU, the up projection, and the product of these.
    """
    model, narrow = share.model, share.narrow
    feed_forward = (3 if share.is_fused else 4) * model.ffn_width * narrow
    around = share.of_tokens(2 * share.norm(model.d_model) + feed_forward, whole=2 * model.d_model * narrow)
    return around + (_gdn_bytes(share) if kind == "gdn" else _attention_bytes(kind, share))


def _gdn_bytes(share: Share) -> int:
    """Inside the mixer. Our own kernels keep the inputs of convolutions, gates and norm; the output projection keeps its own.

    In plain torch each convolution keeps its input, that padded, and what goes into the SiLU.
    """
    model, narrow = share.model, share.narrow
    heads, key, value = _gdn_widths(model)
    if model.backend_on(share.device_type) == "triton":
        return share.of_tokens((2 * key + value + 2 * heads + 3 * value) * narrow) + _delta_rule_bytes(share)
    convolutions = 3 * (2 * key + value) * narrow
    normalised = 2 * (key + 2 * heads) * WIDE  # q and k as they came, 1 / |x|, and that scaled
    gates = 3 * heads * WIDE  # what goes into the softplus, what comes out, the sigmoid
    out_norm = (5 * value + heads) * WIDE + value * narrow  # x, x / rms, that times the weight, gate, SiLU; 1 / rms; the product
    return share.of_tokens(convolutions + normalised + gates + out_norm) + _delta_rule_bytes(share)


def _delta_rule_bytes(share: Share) -> int:
    """fla keeps q, k, v, beta, sums of decays and the chunks' inverses, our own kernels states and updates too; autograd in plain torch
    every step of the chunked algorithm."""
    model = share.model
    heads, key, value = _gdn_widths(model)
    backend = model.backend_on(share.device_type)
    if backend == "triton":  # q, k, v; the updates; states, inverses and scores of the chunks; five numbers per head and token
        chunks = key * model.gdn_value_dim / GDN_CHUNK + 2 * heads * GDN_CHUNK
        return share.of_tokens((2 * key + 2 * value + chunks) * share.narrow + 5 * heads * WIDE)
    if backend != "torch":
        return share.of_tokens((2 * key + value + heads * GDN_CHUNK) * share.narrow + 2 * heads * WIDE)
    states = key * model.gdn_value_dim / GDN_CHUNK
    per_token = 10 * key + 3 * value + 6 * heads * GDN_CHUNK + states + 3 * heads
    return share.of_tokens(per_token * WIDE, multiple=GDN_CHUNK)


def _attention_bytes(kind: str, share: Share) -> int:
    """Inside the mixer: the QK-norms; q, k, v and the output; a logarithm per head and token. fp32 masks a window densely.

    With cp, v holds on to what was exchanged with it, q and k before they were rotated, and the output is there a second time.
    """
    model, narrow = share.model, share.narrow
    width = model.num_heads * model.head_dim
    exchanged = (3 if model.rope_theta else 1) * width if share.parallel.cp > 1 else 0
    kept = share.of_tokens(2 * share.full_width_norm(width) + (4 * width + exchanged) * narrow + model.num_heads * WIDE)
    masked = kind == "window" and model.window < share.seq_len and narrow == WIDE
    return kept + masked * share.seq_len**2 * WIDE


def _selected_bytes(kind: str, share: Share) -> int:
    """Selective checkpointing keeps every second matrix product, attention's and the delta rule's output, and what came over tp or cp."""
    model, narrow = share.model, share.narrow
    tokens = 2 * model.d_model * narrow if share.parallel.tp > 1 else 0
    if kind != "gdn":
        width = model.num_heads * model.head_dim
        exchanged = 4 * width * narrow if share.parallel.cp > 1 else 0
        kept = (3 * width + model.ffn_width + model.d_model) * narrow + model.num_heads * WIDE  # q, v, attention; gate; down
        return share.of_tokens(kept + tokens + exchanged)
    heads, key, value = _gdn_widths(model)
    exchanged = (2 * key + 2 * value + 2 * heads) * narrow if share.parallel.cp > 1 else 0
    kept = (key + value + 2 * heads + model.d_model + model.ffn_width) * narrow  # q, v, a with b; gate; down
    return share.of_tokens(kept + tokens + exchanged) + _selected_delta_rule_bytes(share)


def _selected_delta_rule_bytes(share: Share) -> int:
    model = share.model
    heads, key, value = _gdn_widths(model)
    backend = model.backend_on(share.device_type)
    if backend == "triton":
        return share.of_tokens(
            (2 * value + key * model.gdn_value_dim / GDN_CHUNK + 2 * heads * GDN_CHUNK) * share.narrow + 5 * heads * WIDE
        )
    if backend != "torch":
        return share.of_tokens((value + heads * GDN_CHUNK) * share.narrow + heads * WIDE)
    products = 3 * value + 2 * heads * GDN_CHUNK + key * model.gdn_value_dim / GDN_CHUNK
    return share.of_tokens(products * WIDE, multiple=GDN_CHUNK)


def _loss_bytes(share: Share) -> int:
    """The gradient of the head's input; that of its weight in fp32; and then that once more, scaled, or before it the logits of a chunk
    of tokens, which on a GPU become their gradient in place, as fp32 does everywhere; else there are they, in fp32 the same, and their
    gradient."""
    model, narrow = share.model, share.narrow
    is_in_place = share.device_type == "cuda" or narrow == WIDE
    chunk_tokens = min(share.compute.loss_chunk_tokens, share.of_tokens(0, whole=1))
    chunk = chunk_tokens * _rows_of_head(share) * (narrow if is_in_place else WIDE + 2 * narrow)
    head = _elements_of_head(share)
    return share.of_tokens(0, whole=model.d_model * narrow) + head * WIDE + max(head * narrow, chunk)


def _block_bytes(kind: str, share: Share) -> int:
    """What is recomputed of a block, and the gradients that its backward holds at once in its fullest place, the feed-forward: when the
    delta rule goes backward, with its states of every chunk, more than that of what the forward kept is gone."""
    model, narrow = share.model, share.narrow
    recomputed = saved_bytes(kind, share) - kept_bytes(kind, share)
    feed_forward = share.of_tokens(model.ffn_width * narrow, whole=2 * model.d_model * narrow)
    return recomputed + feed_forward


def _elements_of_head(share: Share) -> int:
    """Elements of the head on a tp rank."""
    return _rows_of_head(share) * share.model.d_model


def _rows_of_head(share: Share) -> int:
    return -(-share.model.vocab_size // share.parallel.tp)


def _gdn_widths(model: ModelConfig) -> tuple[int, int, int]:
    """Heads, and the widths of k and v over all of them."""
    return model.num_heads, model.num_heads * model.gdn_key_dim, model.num_heads * model.gdn_value_dim


def _group_sizes(shapes: dict[str, Shape]) -> tuple[int, int]:
    """Elements of the largest block, and of what is in no block."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        group = ".".join(name.split(".")[:2]) if name.startswith("layers.") else ""
        sizes[group] = sizes.get(group, 0) + prod(shape)
    root = sizes.pop("")
    return max(sizes.values()), root


def _cut_by_tp(name: str, shape: Shape, tp: int) -> Shape:
    module = name.split(".")[-2]
    if module in REPLICATED:
        return shape
    cut = 1 if module in ROW_WISE else 0
    return tuple(-(-size // tp) if dim == cut else size for dim, size in enumerate(shape))


def _cut_by_fsdp(shape: Shape, num_shards: int) -> int:
    """Elements of the fullest shard: FSDP deals rows."""
    return -(-shape[0] // num_shards) * prod(shape[1:])


def _state_bytes(name: str, shape: Shape, optimizer: OptimizerConfig) -> int:
    """Per element."""
    return WIDE if optimizer.name == "muon" and takes_muon(name, len(shape)) else 2 * WIDE


def _up_to_multiple(number: int, of: int) -> int:
    return -(-number // of) * of
