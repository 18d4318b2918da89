"""What a GDN layer holds and costs: parameters, FLOPs, bytes of activations. Pure."""

from model.declare import Cut, Initial, Kind, Parameter, norm_weight, projection
from model.kernels.delta_rule.sizes import GDN_CHUNK
from model.mixers.gdn.config import GdnConfig
from model.share import WIDE, Share


def gdn_parameters(config: GdnConfig) -> dict[str, Parameter]:
    """Everything that a block holds of its GDN mixer."""
    d_model, heads = config.d_model, config.value_heads
    widths = {"q": config.key_width, "k": config.key_width, "v": config.value_width, "a": heads, "b": heads, "g": config.value_width}
    return {
        **{f"{name}_proj.weight": projection(width, d_model, Cut.OUTPUT) for name, width in widths.items()},
        "o_proj.weight": projection(d_model, config.value_width, Cut.INPUT),
        **{f"{name}_conv.weight": _filters(widths[name], config.conv_width) for name in "qkv"},
        "o_norm.weight": norm_weight(config.gdn_value_dim, Cut.NOTHING),
    }


def gdn_gate_parameters(config: GdnConfig) -> dict[str, Parameter]:
    """For each value head the logarithm of A and the bias of dt, which stay fp32 and so are apart from the block."""
    initial = {"A_log": Initial.LOG_DECAY_RATE, "dt_bias": Initial.TIME_STEP_BIAS}
    return {name: Parameter(shape=(config.value_heads,), kind=Kind.VECTOR, cut=Cut.OUTPUT, initial=rule) for name, rule in initial.items()}


def _filters(channels: int, width: int) -> Parameter:
    return Parameter(shape=(channels, 1, width), kind=Kind.CONVOLUTION, cut=Cut.OUTPUT, initial=Initial.NORMAL)


def gdn_flops_per_token(config: GdnConfig) -> float:
    """Training FLOPs of the chunked delta rule, 3 × forward; its projections are counted with the parameters."""
    key, value = config.gdn_key_dim, config.gdn_value_dim
    return 3.0 * config.value_heads * (2 * GDN_CHUNK * (3 * key + 2 * value) + 6 * key * value)


def gdn_saved_bytes(config: GdnConfig, share: Share) -> int:
    """What autograd saves inside the mixer.

    Our own kernels keep the inputs of convolutions, gates and norm; the output projection keeps its own.
    In plain torch each convolution keeps its input, that padded, and what goes into the SiLU.
    """
    heads, key, value, narrow = config.value_heads, config.key_width, config.value_width, share.narrow
    if config.backend_on(share.device_type) == "triton":
        return share.of_tokens((2 * key + value + 2 * heads + 3 * value) * narrow) + _delta_rule_bytes(config, share)
    convolutions = 3 * (2 * key + value) * narrow
    normalised = 2 * (key + 2 * config.key_heads) * WIDE  # q and k as they came, 1 / |x|, and that scaled
    gates = 3 * heads * WIDE  # what goes into the softplus, what comes out, the sigmoid
    out_norm = (5 * value + heads) * WIDE + value * narrow  # x, x / rms, that times the weight, gate, SiLU; 1 / rms; the product
    return share.of_tokens(convolutions + normalised + gates + out_norm) + _delta_rule_bytes(config, share)


def _delta_rule_bytes(config: GdnConfig, share: Share) -> int:
    """fla keeps q, k, v, beta, sums of decays and the chunks' inverses, our own kernels states and updates too; autograd in plain torch
    every step of the chunked algorithm."""
    heads, key, value = config.value_heads, config.key_width, config.value_width
    backend = config.backend_on(share.device_type)
    if backend == "triton":  # q, k, v; the updates; states, inverses and scores of the chunks; five numbers per head and token
        return share.of_tokens((2 * key + 2 * value + _states(config) + 2 * heads * GDN_CHUNK) * share.narrow + 5 * heads * WIDE)
    if backend == "fla":
        return share.of_tokens((2 * key + value + heads * GDN_CHUNK) * share.narrow + 2 * heads * WIDE)
    shared = heads * config.gdn_key_dim  # q and k once for each value head
    per_token = 4 * key + 6 * shared + 3 * value + 6 * heads * GDN_CHUNK + _states(config) + 3 * heads
    return share.of_tokens(per_token * WIDE, multiple=GDN_CHUNK)


def gdn_selected_bytes(config: GdnConfig, share: Share) -> int:
    """What selective checkpointing keeps: the mixer's `kept_products`, the delta rule's outputs, and what was exchanged over cp."""
    heads, key, value = config.value_heads, config.key_width, config.value_width
    exchanged = (2 * key + 2 * value + 2 * heads) * share.narrow if share.parallel.cp > 1 else 0
    products = (key + value + 2 * heads) * share.narrow  # q, v, a with b
    return share.of_tokens(products + exchanged) + _selected_delta_rule_bytes(config, share)


def _selected_delta_rule_bytes(config: GdnConfig, share: Share) -> int:
    heads, value = config.value_heads, config.value_width
    backend = config.backend_on(share.device_type)
    if backend == "triton":
        return share.of_tokens((2 * value + _states(config) + 2 * heads * GDN_CHUNK) * share.narrow + 5 * heads * WIDE)
    if backend == "fla":
        return share.of_tokens((value + heads * GDN_CHUNK) * share.narrow + heads * WIDE)
    return share.of_tokens((3 * value + 2 * config.key_heads * GDN_CHUNK + _states(config)) * WIDE, multiple=GDN_CHUNK)


def _states(config: GdnConfig) -> float:
    """Elements per token of the states, K × V for each value head, that the chunks begin with."""
    return config.value_heads * config.gdn_key_dim * config.gdn_value_dim / GDN_CHUNK
