"""The delta rule's front door with the Triton backend, in Triton's interpreter; prints what is off, and nothing else.

A process of its own, because Triton decides at import whether it interprets. TRITON_INTERPRET=1 must be set.
"""

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import ModelConfig
from model.documents import Documents, build_documents
from model.kernels.delta_rule import gated_delta_rule
from model.kernels.delta_rule_operator import delta_rule_triton
from model.kernels.reference import gated_delta_rule_reference
from model.parallelize import build_model

NUM_ROWS, NUM_TOKENS, NUM_HEADS, KEY_DIM, VALUE_DIM = 2, 70, 2, 48, 32
OFFSETS = torch.tensor([0, 1, 66, 70, 140])


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(NUM_ROWS, NUM_TOKENS, NUM_HEADS, *shape, generator=generator)

    return {
        "q": F.normalize(noise(KEY_DIM), dim=-1) * KEY_DIM**-0.5,
        "k": F.normalize(noise(KEY_DIM), dim=-1),
        "v": noise(VALUE_DIM),
        "log_decay": -F.softplus(noise() - 2),
        "beta": 2 * noise().sigmoid(),
    }


def results(rule: object, parts: dict[str, Tensor], documents: Documents | None) -> dict[str, Tensor]:
    """The output and every gradient, in fp64."""
    leaves = {name: part.clone().requires_grad_() for name, part in parts.items()}
    out = rule(**leaves, documents=documents)  # type: ignore[operator]
    gradients = torch.autograd.grad(out.square().sum(), list(leaves.values()))
    return {"out": out.double().detach(), **{name: grad.double() for name, grad in zip(leaves, gradients, strict=True)}}


def compare(case: str, ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    for name, exact in theirs.items():
        distance = ((ours[name] - exact).norm() / exact.norm()).item()
        if not distance <= tolerance:
            print(f"{case}: {name} is {distance:.1e} off")


def main() -> None:
    parts = inputs()
    rule = partial(gated_delta_rule, backend="triton")
    wide = {name: part.double() for name, part in parts.items()}
    for case, documents in (
        ("whole rows", None),
        ("documents", build_documents(OFFSETS, num_rows=NUM_ROWS, num_tokens=NUM_TOKENS, device=torch.device("cpu"))),
    ):
        ours = results(rule, parts, documents)
        compare(case, ours, results(gated_delta_rule_reference, wide, documents), 1e-5)
        compiled = torch.compile(rule, fullgraph=True, backend="aot_eager")
        compare(f"{case}, compiled", results(compiled, parts, documents), ours, 0.0)
        offsets_cpu_P = documents.offsets_cpu_P if documents is not None else None
        leaves = [part.clone().requires_grad_() for part in parts.values()]
        torch.library.opcheck(delta_rule_triton, (*leaves, offsets_cpu_P), test_utils=("test_schema", "test_autograd_registration"))


def whole_layer() -> None:
    """The mixer with every kernel of ours against the mixer in plain torch."""
    config = ModelConfig(
        vocab_size=8, d_model=24, num_layers=1, layer_pattern="gdn", num_heads=2, head_dim=8, gdn_key_dim=48, gdn_value_dim=32, ffn_width=8
    )
    documents = build_documents(OFFSETS, num_rows=NUM_ROWS, num_tokens=NUM_TOKENS, device=torch.device("cpu"))
    x_BTD = torch.randn(NUM_ROWS, NUM_TOKENS, 24, generator=torch.Generator().manual_seed(1))
    found = {}
    for backend in ("torch", "triton"):
        model = build_model(replace(config, gdn_backend=backend), None, device=torch.device("cpu"), seed=0)
        mixer, gate, x = model.layers[0].mixer, model.gates()["0"], x_BTD.clone().requires_grad_()
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.mul_(10 if parameter.ndim > 1 else 1)
        out_BTD = mixer(x, gate, documents)
        out_BTD.square().sum().backward()
        parameters = dict(mixer.named_parameters()) | dict(model.gates.named_parameters())
        found[backend] = {"out": out_BTD.detach(), "x": x.grad, **{name: parameter.grad for name, parameter in parameters.items()}}
    compare("whole layer", found["triton"], found["torch"], 1e-4)


if __name__ == "__main__":
    main()
    whole_layer()
