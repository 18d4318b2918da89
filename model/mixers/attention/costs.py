"""What an attention layer holds and costs: parameters, FLOPs, bytes of activations. Pure."""

from model.declare import Cut, Parameter, norm_weight, projection
from model.mixers.attention.config import AttentionConfig
from model.share import WIDE, Share


def attention_parameters(config: AttentionConfig) -> dict[str, Parameter]:
    """Everything that a block holds of its attention mixer; the QK-norms are over all heads together."""
    width = config.attention_width
    return {
        **{f"{name}_proj.weight": projection(width, config.d_model, Cut.OUTPUT) for name in "qkv"},
        "o_proj.weight": projection(config.d_model, width, Cut.INPUT),
        **{f"{name}_norm.weight": norm_weight(width, Cut.OUTPUT) for name in "qk"},
    }


def attention_flops_per_token(config: AttentionConfig, *, seq_len: int, window: int) -> float:
    """Training FLOPs of scores and values, 3 × forward; its projections are counted with the parameters."""
    return 3 * 4 * config.attention_width * mean_context(seq_len, window)


def mean_context(seq_len: int, window: int) -> float:
    """Tokens that a token attends to on average over a row, causally and at most `window`; half a full row's."""
    window = min(window, seq_len)
    return window * (seq_len - window / 2) / seq_len


def attention_saved_bytes(config: AttentionConfig, share: Share, *, window: int | None) -> int:
    """What autograd saves inside the mixer: the QK-norms; q, k, v and the output; a logarithm per head and token.

    With cp, v holds on to what was exchanged with it, q and k before they were rotated, and the output is there a second time.
    In fp32 a window is a dense mask.
    """
    width, narrow = config.attention_width, share.narrow
    exchanged = (3 if config.rope_theta else 1) * width if share.parallel.cp > 1 else 0
    kept = share.of_tokens(2 * share.full_width_norm(width) + (4 * width + exchanged) * narrow + config.num_heads * WIDE)
    is_masked = window is not None and window < share.seq_len and narrow == WIDE
    return kept + is_masked * share.seq_len**2 * WIDE


def attention_selected_bytes(config: AttentionConfig, share: Share) -> int:
    """What selective checkpointing keeps: the mixer's `kept_products`, attention's output, and what was exchanged over cp."""
    width, narrow = config.attention_width, share.narrow
    exchanged = 4 * width * narrow if share.parallel.cp > 1 else 0
    return share.of_tokens(3 * width * narrow + config.num_heads * WIDE + exchanged)  # q, v, attention
