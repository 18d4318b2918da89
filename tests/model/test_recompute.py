"""What selective checkpointing keeps and computes again, by name."""

from collections import Counter

import torch
from torch import Tensor
from torch.profiler import profile

from model.build import build_model
from model.compute import ComputeConfig
from model.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=40, d_model=24, num_layers=2, layer_pattern="gdn attn", num_heads=2, head_dim=6, gdn_key_dim=5, gdn_value_dim=7, ffn_width=46
)
TOKENS = torch.arange(34).view(2, 17) % 40


def products_of_a_step(mode: str) -> tuple[Counter[tuple[int, ...]], dict[str, Tensor]]:
    """How often x is multiplied by a weight of each shape, in-width × out-width, in a forward and backward; and the gradients."""
    compute = ComputeConfig(activation_checkpointing=mode)  # type: ignore[arg-type]
    model = build_model(CONFIG, None, device=torch.device("cpu"), seed=3, compute=compute)
    with profile(record_shapes=True) as seen:
        model.loss_sum(TOKENS, TOKENS, z_loss=0.0, chunk_tokens=64)[0].backward()
    products = [event.input_shapes for event in seen.events() if event.name == "aten::mm"]
    num_of = Counter(tuple(weight) for x, weight, *_ in products if x[0] == TOKENS.numel())
    return num_of, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_named_products_are_not_computed_again_and_unread_ones_neither() -> None:
    (plain, exact), (selective, gradients), (full, _) = (products_of_a_step(mode) for mode in ("none", "selective", "full"))

    # The profiler sees what runs under the policy twice: one more in the forward, and two where it is computed again.
    again = {shape: (selective[shape] - plain[shape]) / 3 for shape in plain if selective[shape] != plain[shape]}
    assert again == {
        (24, 10): 1,  # GDN: k, but not q
        (24, 14): 1,  # GDN: the output gate, but not v
        (24, 12): 1,  # attention: k, but neither q nor v
        (14, 24): 1,  # GDN: o
        (12, 24): 1,  # attention: o
        (24, 46): 2,  # both feed-forwards: up, but not the gate
    }, "the products of down: attention's is kept, nobody reads GDN's"
    assert full[46, 24] == plain[46, 24] + 2, "recomputing everything includes them"
    assert all(torch.equal(gradients[name], exact[name]) for name in exact)
