"""What a SwiGLU feed-forward holds and costs. Pure."""

from model.declare import Cut, Parameter, projection
from model.share import Share


def swiglu_parameters(d_model: int, ffn_width: int) -> dict[str, Parameter]:
    """The three projections of a feed-forward."""
    return {
        "gate_proj.weight": projection(ffn_width, d_model, Cut.OUTPUT),
        "up_proj.weight": projection(ffn_width, d_model, Cut.OUTPUT),
        "down_proj.weight": projection(d_model, ffn_width, Cut.INPUT),
    }


def swiglu_saved_bytes(d_model: int, ffn_width: int, share: Share) -> int:
    """What autograd saves: the input, which all tp ranks hold in full; gate, up projection and their product; in plain torch the SiLU."""
    hidden = (3 if share.is_fused else 4) * ffn_width * share.narrow
    return share.of_tokens(hidden, whole=d_model * share.narrow)


def swiglu_selected_bytes(d_model: int, ffn_width: int, share: Share, *, is_read: bool) -> int:
    """What selective checkpointing keeps: the gate, and the output where somebody's backward reads it."""
    return share.of_tokens((ffn_width + d_model * is_read) * share.narrow)
