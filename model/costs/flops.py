"""What training a model computes, by formula. Pure."""

from model.config import ModelConfig
from model.mixers.registry import MIXERS
from model.parameters import num_params


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Training FLOPs per token at `seq_len`: 3 × forward, with causally averaged attention and the chunked delta rule.

    A parameter costs 6 (multiply and add, once forward and twice backward); the input embedding is a look-up and costs nothing.
    """
    products = 6.0 * (num_params(config) - config.vocab_size * config.d_model)
    return products + sum(MIXERS[kind].flops_per_token(config, seq_len) for kind in config.layer_kinds)
