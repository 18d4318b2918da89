"""Bytes that the forward keeps for the backward, as the sum of what each part says. Pure."""

from model.config import ModelConfig
from model.ffn.swiglu.costs import swiglu_saved_bytes, swiglu_selected_bytes
from model.mixers.registry import MIXERS
from model.share import WIDE, Share


def activation_bytes(model: ModelConfig, share: Share) -> int:
    """What the forward keeps for the backward, the head's input included and the loss not."""
    ends = share.of_tokens(share.norm(model.d_model), whole=8 + model.d_model * share.narrow)  # the tokens; the last norm; the head's input
    tables = WIDE * share.seq_len * model.head_dim if model.rope_theta else 0
    return ends + tables + sum(kept_bytes(model, kind, share) for kind in model.layer_kinds)


def kept_bytes(model: ModelConfig, kind: str, share: Share) -> int:
    """What a block with a mixer of this kind keeps under the activation checkpointing of `share.compute`."""
    everything = saved_bytes(model, kind, share)
    block_input = share.of_tokens(model.d_model * share.narrow)
    match share.compute.activation_checkpointing:
        case "none":
            return everything
        case "full":
            return block_input
        case "selective":
            return block_input + _selected_bytes(model, kind, share)
        case _:
            return round(block_input + share.compute.memory_budget * (everything - block_input))


def saved_bytes(model: ModelConfig, kind: str, share: Share) -> int:
    """What autograd saves in a block without checkpointing: in the two norms, in the mixer with its input, and in the feed-forward."""
    norms = share.of_tokens(2 * share.norm(model.d_model), whole=model.d_model * share.narrow)
    return norms + MIXERS[kind].saved_bytes(model, share) + swiglu_saved_bytes(model.d_model, model.ffn_width, share)


def _selected_bytes(model: ModelConfig, kind: str, share: Share) -> int:
    """What selective checkpointing keeps in a block beside its input: named products, and what came over tp or cp."""
    mixer = MIXERS[kind]
    over_tp = share.of_tokens(2 * model.d_model * share.narrow) if share.parallel.tp > 1 else 0
    feed_forward = swiglu_selected_bytes(model.d_model, model.ffn_width, share, is_read=not mixer.norm_first)
    return mixer.selected_bytes(model, share) + feed_forward + over_tp


def recomputed_bytes(model: ModelConfig, kind: str, share: Share) -> int:
    """What the backward of a block makes again."""
    return saved_bytes(model, kind, share) - kept_bytes(model, kind, share)
