"""The mixers that there are: the only list of them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.mixers.attention.config import AttentionConfig
from model.mixers.attention.mixer import AttentionMixer
from model.mixers.gdn.config import GdnConfig
from model.mixers.gdn.mixer import GdnMixer
from model.mixers.mixer import Mixer

MIXERS: Mapping[str, Mixer[Any]] = {
    "gdn": GdnMixer(),
    "attn": AttentionMixer(is_windowed=False),
    "window": AttentionMixer(is_windowed=True),
}
"""By kind, the word that `model.layer_pattern` has for a layer."""


@dataclass(frozen=True, kw_only=True)
class MixerConfigs(GdnConfig, AttentionConfig):
    """The fields of every mixer, side by side: recipes and stored configurations have them flat in the section `model`."""
