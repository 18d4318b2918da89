"""What a step trades between memory and time. Pure."""

from dataclasses import dataclass
from typing import Literal

from model.require import require_positive


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
        require_positive("compute", "loss_chunk_tokens", self.loss_chunk_tokens)
