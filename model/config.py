"""What a model is. Pure: importing this costs no torch."""

from dataclasses import dataclass, fields

from model.mixers.registry import MIXERS, MixerConfigs
from model.parallel.config import ParallelConfig, validate_heads, validate_rows
from model.require import require_finite, require_positive

MOST_LAYERS_OR_HEADS = 10_000
"""More than any model has, and few enough to look at one by one."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(MixerConfigs):
    """A decoder whose layers each mix tokens in one of several ways: Olmo Hybrid (arXiv 2604.03444), Olmo 3 (arXiv 2512.13961)."""

    layer_pattern: str = "gdn gdn gdn attn"
    """Kinds of layers out of `mixers.registry.MIXERS`, repeated to num_layers."""

    def __post_init__(self) -> None:
        kinds = self.layer_pattern.split()
        if not kinds or set(kinds) - set(MIXERS):
            raise ValueError(f"model.layer_pattern={self.layer_pattern!r}: use words out of {', '.join(MIXERS)}: 'gdn gdn gdn attn'")
        for field in fields(self):
            require_finite("model", field.name, getattr(self, field.name))
            if field.name.endswith(("_layers", "_heads")) and getattr(self, field.name) > MOST_LAYERS_OR_HEADS:
                raise ValueError(f"model.{field.name}={getattr(self, field.name)}: use {MOST_LAYERS_OR_HEADS:,} or less")
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "ffn_width", "norm_eps"):
            require_positive("model", name, getattr(self, name))
        for kind in dict.fromkeys(kinds):
            MIXERS[kind].check(self)

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """The kind of every layer."""
        kinds = self.layer_pattern.split()
        return tuple(kinds[layer % len(kinds)] for layer in range(self.num_layers))


def validate_layout(model: ModelConfig, parallel: ParallelConfig) -> None:
    """Raises ValueError when the model can't be cut cp · tp ways: heads are never split, and no tp rank is left without rows."""
    heads = {MIXERS[kind].num_heads(model) for kind in model.layer_kinds}
    for num_heads in sorted(heads):
        validate_heads(num_heads, parallel)
    for name in ("ffn_width", "vocab_size"):
        validate_rows(name, getattr(model, name), parallel)
