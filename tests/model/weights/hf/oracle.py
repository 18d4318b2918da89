"""What transformers computes, on its plain torch path: `python oracle.py DIR` leaves a folder per case there.

A process of its own, because transformers must find neither fla nor triton. In each folder: `model` and `gradients`, both saved by
save_pretrained; `exported`, which our code made of `model`; `oracle.safetensors`; and `loading.json`, what transformers said of `exported`.
"""

import copy
import json
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

NUM_ROWS = 2
NO_ROPE = {"rope_theta": None, "rope_type": "default"}
ROPE = {"rope_theta": 5e5, "rope_type": "default"}


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    model: str
    num_tokens: int
    sizes: dict[str, Any] = field(default_factory=dict)
    """Beside those of SIZES."""
    cuts: tuple[int, ...]
    """Where a document starts, in each of the rows, after the first."""


SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-6,
    "pad_token_id": None,
    "eos_token_id": 1,
}
SPEC = {"linear_key_head_dim": 96, "linear_value_head_dim": 192}
CASES = (
    Case(name="rope", model="OlmoHybrid", num_tokens=37, sizes={**SPEC, "rope_parameters": ROPE}, cuts=(1, 3, 20)),
    Case(name="no_rope", model="OlmoHybrid", num_tokens=130, sizes={**SPEC, "rope_parameters": NO_ROPE}, cuts=(64, 67, 129)),
    Case(
        name="one_head",
        model="OlmoHybrid",
        num_tokens=65,
        sizes={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 1,
            "num_hidden_layers": 3,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_key_head_dim": 24,
            "linear_value_head_dim": 40,
            "linear_conv_kernel_dim": 3,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
        },
        cuts=(31,),
    ),
    Case(
        name="square_state",
        model="OlmoHybrid",
        num_tokens=29,
        sizes={"num_attention_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32, "rope_parameters": ROPE, "head_dim": 32},
        cuts=(2, 28),
    ),
    Case(
        name="grouped_values",
        model="OlmoHybrid",
        num_tokens=70,
        sizes={
            "linear_num_key_heads": 3,
            "linear_num_value_heads": 6,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 48,
            "rope_parameters": NO_ROPE,
        },
        cuts=(3, 65),
    ),
    Case(name="window", model="Olmo3", num_tokens=37, sizes={"sliding_window": 8}, cuts=(5, 21)),
    Case(
        name="long_window",
        model="Olmo3",
        num_tokens=130,
        sizes={"num_attention_heads": 1, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2},
        cuts=(40,),
    ),
)


def forget_kernels() -> None:
    """Neither can be imported or found from here on; also in a process where they are installed."""
    sys.modules.update(dict.fromkeys(("fla", "triton", "causal_conv1d")))


def build_reference(case: Case) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    config = getattr(transformers, f"{case.model}Config")(**{**SIZES, **case.sizes})
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{case.model}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return model


def judge(model: Any, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Its logits and its loss."""
    out = model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False)
    return out.logits, out.loss


def in_bf16(model: Any) -> Any:
    """A copy in bf16, but for the gates, which are fp32 in the models that were trained."""
    copied = copy.deepcopy(model).to(torch.bfloat16)
    for (name, parameter), original in zip(copied.named_parameters(), model.parameters(), strict=True):
        if name.endswith(("A_log", "dt_bias")):
            parameter.data = original.data.clone()
    return copied


def each_document_alone(model: Any, tokens_BT: Tensor, cuts: tuple[int, ...]) -> Tensor:
    bounds = (0, *cuts, tokens_BT.shape[1])
    return torch.cat([judge(model, tokens_BT[:, start:end])[0] for start, end in pairwise(bounds)], dim=1)


def load_exported(model_class: type, directory: Path, tokens_BT: Tensor) -> tuple[dict[str, list[str]], Tensor]:
    model, info = model_class.from_pretrained(directory, output_loading_info=True, attn_implementation="eager", dtype=torch.float32)
    said = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return said, judge(model, tokens_BT)[0]


def write_case(case: Case, directory: Path) -> None:
    from model.weights.hf.files import open_hf, write_hf

    model = build_reference(case)
    model.save_pretrained(directory / "model")
    tokens_BT = torch.randint(2, SIZES["vocab_size"], (NUM_ROWS, case.num_tokens))
    logits_BTX, loss = judge(model, tokens_BT)
    loss.backward()
    with torch.no_grad():
        bf16_logits_BTX, bf16_loss = judge(in_bf16(model), tokens_BT)
        alone_BTX = each_document_alone(model, tokens_BT, case.cuts)
        source = open_hf(directory / "model")
        write_hf(directory / "exported", source, source.config, serving=source.serving, shard_bytes=1 << 20)
        said, exported_BTX = load_exported(type(model), directory / "exported", tokens_BT)
        for parameter in model.parameters():
            parameter.copy_(parameter.grad)
    model.save_pretrained(directory / "gradients")
    (directory / "loading.json").write_text(json.dumps(said))
    results = {"tokens": tokens_BT, "logits": logits_BTX, "loss": loss, "bf16_logits": bf16_logits_BTX, "bf16_loss": bf16_loss}
    results |= {"each_document_alone": alone_BTX, "exported_logits": exported_BTX}
    save_file({name: tensor.detach().contiguous() for name, tensor in results.items()}, directory / "oracle.safetensors")


def main(directory: Path) -> None:
    forget_kernels()
    for case in CASES:
        torch.manual_seed(0)
        write_case(case, directory / case.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
