"""What a model is, how ranks share it, how it is computed and how it is optimised. Pure: importing this costs no torch."""

import math
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Literal

from model.kernels.delta_rule.sizes import TRITON_CONV_WIDTH, TRITON_KEY_DIMS, TRITON_VALUE_DIMS, Backend

LAYER_KINDS = ("gdn", "attn", "window")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder of gated delta-rule and attention layers: Olmo Hybrid (arXiv 2604.03444) and Olmo 3 (arXiv 2512.13961)."""

    vocab_size: int
    """Rows of the embedding and the head, padding included."""
    d_model: int
    num_layers: int
    num_heads: int
    """Heads of every layer."""
    head_dim: int
    """Width of one attention head; num_heads * head_dim need not be d_model."""
    gdn_key_dim: int = 0
    """Key width of one GDN head."""
    gdn_value_dim: int = 0
    """Value width of one GDN head."""
    ffn_width: int
    layer_pattern: str = "gdn gdn gdn attn"
    """Kinds of layers, repeated to num_layers: gdn, attn (full causal attention), window (the last `window` tokens only)."""
    window: int = 4096
    """Tokens that a window layer attends to, its own included."""
    rope_theta: float = 5e5
    """Base of the rotary positions; 0 for none (DroPE)."""
    norm_eps: float = 1e-6
    gdn_norm_eps: float = 1e-5
    conv_width: int = 4
    gdn_backend: Literal["auto", "torch", "fla", "triton"] = "auto"
    """Of a GDN layer: our own kernels in Triton, flash-linear-attention's, or plain torch. auto: see `backend_on`."""

    def __post_init__(self) -> None:
        kinds = self.layer_pattern.split()
        if not kinds or set(kinds) - set(LAYER_KINDS):
            raise ValueError(f"model.layer_pattern={self.layer_pattern!r}: use words out of {', '.join(LAYER_KINDS)}: 'gdn gdn gdn attn'")
        positive = ["vocab_size", "d_model", "num_layers", "num_heads", "head_dim", "ffn_width", "window", "norm_eps"]
        if "gdn" in kinds:
            positive += ["gdn_key_dim", "gdn_value_dim", "gdn_norm_eps", "conv_width"]
        for field in fields(self):
            _require_finite("model", field.name, getattr(self, field.name))
        for name in positive:
            _require_positive("model", name, getattr(self, name))
        if self.rope_theta < 0:
            raise ValueError(f"model.rope_theta={self.rope_theta}: negative; use a positive base, or 0 for no rotary positions")
        if self.rope_theta and self.head_dim % 2:
            raise ValueError(f"model.head_dim={self.head_dim}: RoPE rotates pairs; use an even number, or model.rope_theta=0")
        if self.gdn_backend not in ("auto", "torch", "fla", "triton"):
            raise ValueError(f"model.gdn_backend={self.gdn_backend}: no such kernel; use auto, torch, fla or triton")
        if self.gdn_backend == "triton" and "gdn" in kinds:
            self._require_triton_kernels()

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """Of every layer: gdn, attn or window."""
        kinds = self.layer_pattern.split()
        return tuple(kinds[layer % len(kinds)] for layer in range(self.num_layers))

    def backend_on(self, device_type: str) -> Backend:
        """`gdn_backend`, or for auto: on CUDA our own kernels, fla's for sizes that ours are not made for; plain torch elsewhere."""
        if self.gdn_backend != "auto":
            return self.gdn_backend
        if device_type != "cuda":
            return "torch"
        is_made_for = self.gdn_key_dim in TRITON_KEY_DIMS and self.gdn_value_dim in TRITON_VALUE_DIMS
        return "triton" if is_made_for and self.conv_width == TRITON_CONV_WIDTH else "fla"

    def _require_triton_kernels(self) -> None:
        for name, sizes in (("gdn_key_dim", TRITON_KEY_DIMS), ("gdn_value_dim", TRITON_VALUE_DIMS), ("conv_width", (TRITON_CONV_WIDTH,))):
            if getattr(self, name) not in sizes:
                known = ", ".join(map(str, sizes))
                raise ValueError(f"model.{name}={getattr(self, name)}: model.gdn_backend=triton has kernels for {known}; use auto")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """How the ranks divide the work: dp_replicate × dp_shard × cp × tp, the last the innermost. It never changes the model."""

    dp_replicate: int = 1
    """Groups of ranks that each hold every parameter once (HSDP); they see different rows."""
    dp_shard: int = 1
    """Ranks that hold different rows and a shard of every parameter (FSDP2)."""
    cp: int = 1
    """Ranks that share the tokens of a row, and within a mixer its heads (Ulysses)."""
    tp: int = 1
    """Ranks that share the heads of every layer, and between the layers the tokens (sequence parallelism)."""

    def __post_init__(self) -> None:
        for name in ("dp_replicate", "dp_shard", "cp", "tp"):
            _require_positive("parallel", name, getattr(self, name))

    @property
    def dp(self) -> int:
        """Ranks that see different rows."""
        return self.dp_replicate * self.dp_shard

    @property
    def world_size(self) -> int:
        return self.dp * self.cp * self.tp

    def __str__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("dp_replicate", "dp_shard", "cp", "tp")}
        return " × ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one rank"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """What is traded between memory and time. It never changes the model."""

    activation_checkpointing: Literal["none", "selective", "full", "memory_budget"] = "none"
    """What of a block's activations is recomputed in the backward: nothing, what is cheap, everything, or what `memory_budget` asks for."""
    memory_budget: float = 0.5
    """For memory_budget: the fraction of a compiled block's activations to keep."""
    compile: bool = False
    """torch.compile of every block."""
    loss_chunk_tokens: int = 4096
    """Tokens whose logits exist at once on a rank. Each chunk reads and writes the head's fp32 gradient once."""

    def __post_init__(self) -> None:
        modes = ("none", "selective", "full", "memory_budget")
        if self.activation_checkpointing not in modes:
            raise ValueError(f"compute.activation_checkpointing={self.activation_checkpointing}: use {', '.join(modes)}")
        if not 0 <= self.memory_budget <= 1:
            raise ValueError(f"compute.memory_budget={self.memory_budget}: a fraction; use a number from 0 to 1")
        if self.activation_checkpointing == "memory_budget" and not self.compile:
            raise ValueError("compute.activation_checkpointing=memory_budget: the compiler chooses what to keep; set compute.compile=true")
        _require_positive("compute", "loss_chunk_tokens", self.loss_chunk_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamGroup:
    """Parameters with settings of their own."""

    pattern: str
    """Of parameter names, as in a shell: `embed.weight`, `*norm.weight`, `layers.0.*`."""
    lr_scale: float = 1.0
    """Times the learning rate."""
    weight_decay: float | None = None
    """Instead of optimizer.weight_decay."""

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.pattern)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW or Muon, and the learning rate's course; the defaults are Olmo Hybrid's pretraining recipe."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon takes the matrices inside the blocks; embedding, head, vectors and convolutions stay with AdamW."""
    lr: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    muon_momentum: float = 0.95
    groups: tuple[ParamGroup, ...] = (ParamGroup(pattern="embed.weight", weight_decay=0.0),)
    """The first whose pattern matches counts; every pattern must match something."""
    schedule: Literal["cosine", "linear", "wsd"] = "cosine"
    """After the warmup: a cosine or a line down to the floor at the last step, or constant until a line down over the decay (WSD)."""
    warmup_steps: int = 2000
    warmup_tokens: int = 0
    """Instead of warmup_steps."""
    decay_steps: int = 0
    """Of wsd."""
    decay_tokens: int = 0
    """Instead of decay_steps."""
    lr_floor: float = 0.1
    """Where the schedule ends, as a fraction of lr."""
    clip_norm: float = 1.0
    z_loss: float = 1e-5
    """Weight of the squared log-sum-exp of the logits in the loss."""
    skip_sigma: float = 0.0
    """Skip an update whose loss or gradient norm is this many standard deviations above the mean of the last skip_window; 0 never does."""
    skip_window: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(self.groups))
        for name in ("lr", "eps", "clip_norm", "skip_window"):
            _require_positive("optimizer", name, getattr(self, name))
        for name in ("weight_decay", "warmup_steps", "warmup_tokens", "decay_steps", "decay_tokens", "z_loss", "skip_sigma"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: negative; use 0 to turn it off")
        _check_decay(self)
        if self.skip_sigma and self.skip_window < 2:
            raise ValueError(f"optimizer.skip_window={self.skip_window}: a deviation needs values; use 2 or more, such as 128")
        for index, group in enumerate(self.groups):
            for name in ("lr_scale", "weight_decay"):
                if (getattr(group, name) or 0) < 0:
                    raise ValueError(f"optimizer.groups[{index}].{name}={getattr(group, name)}: negative; use 0 to turn it off")
        for name in ("beta1", "beta2", "muon_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: a decay rate; use a number from 0 to below 1")
        if not 0 <= self.lr_floor <= 1:
            raise ValueError(f"optimizer.lr_floor={self.lr_floor}: a fraction of optimizer.lr; use a number from 0 to 1")


def _check_decay(optimizer: OptimizerConfig) -> None:
    """wsd has one decay, the others have none."""
    if optimizer.schedule == "wsd" and not (optimizer.decay_steps or optimizer.decay_tokens):
        raise ValueError("optimizer.schedule=wsd: no decay; set optimizer.decay_steps or optimizer.decay_tokens")
    for name in ("decay_steps", "decay_tokens"):
        if optimizer.schedule != "wsd" and getattr(optimizer, name):
            raise ValueError(f"optimizer.{name}={getattr(optimizer, name)}: only wsd has a decay; use 0, or optimizer.schedule=wsd")
    if optimizer.decay_steps and optimizer.decay_tokens:
        raise ValueError(
            f"optimizer.decay_tokens={optimizer.decay_tokens}: optimizer.decay_steps={optimizer.decay_steps} too; set one of them to 0"
        )


def validate_layout(model: ModelConfig, parallel: ParallelConfig) -> None:
    """Raises ValueError when the model can't be cut cp · tp ways: heads are never split."""
    divisors = [number for number in range(1, model.num_heads + 1) if model.num_heads % number == 0]
    if model.num_heads % parallel.tp:
        raise ValueError(f"parallel.tp={parallel.tp}: {model.num_heads} heads; use {_one_of(divisors)}")
    for name in ("ffn_width", "vocab_size"):
        size = getattr(model, name)
        if -(-size // parallel.tp) * (parallel.tp - 1) >= size:
            raise ValueError(f"parallel.tp={parallel.tp}: leaves a rank without any of model.{name}={size}; use a smaller tp")
    left = [number for number in divisors if (model.num_heads // parallel.tp) % number == 0]
    if parallel.cp not in left:
        among = f", {model.num_heads // parallel.tp} on each rank of parallel.tp={parallel.tp}" if parallel.tp > 1 else ""
        raise ValueError(f"parallel.cp={parallel.cp}: {model.num_heads} heads{among}; use {_one_of(left)}")


def validate_world(parallel: ParallelConfig, num_ranks: int) -> None:
    """Raises ValueError when the layout is for another number of ranks than there are."""
    if parallel.world_size != num_ranks:
        raise ValueError(
            f"parallel.dp_shard={parallel.dp_shard}: {parallel} is {parallel.world_size} ranks, but there are {num_ranks}; "
            f"make dp_replicate × dp_shard × cp × tp equal {num_ranks}"
        )


def _one_of(numbers: list[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last


def _require_finite(section: str, name: str, value: float | str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{section}.{name}={value}: must be finite; use an ordinary number")


def _require_positive(section: str, name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{section}.{name}={value}: must be positive; use {'1 or more' if isinstance(value, int) else 'a number above 0'}")
