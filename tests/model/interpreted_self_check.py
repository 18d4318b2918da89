"""The self-check in Triton's interpreter, as it is and once it has learnt bf16, a line each. TRITON_INTERPRET=1 must be set."""

import torch

from model.self_check import Sizes, find_wrong_kernel
from tests.model.kernels.delta_rule.interpreted_delta_rule import teach_bf16


def main() -> None:
    sizes = Sizes(d_model=40, ffn_width=56, num_heads=2, head_dim=20, key_dim=32, value_dim=48, num_tokens=130)
    print(find_wrong_kernel(sizes, backend="triton", device=torch.device("cpu")))
    teach_bf16()
    print(find_wrong_kernel(sizes, backend="triton", device=torch.device("cpu")))


if __name__ == "__main__":
    main()
