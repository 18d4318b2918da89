"""The self-check in Triton's interpreter, as it is and once it has learnt bf16, a line each. TRITON_INTERPRET=1 must be set."""

from tests.model.kernels.delta_rule.interpreted_delta_rule import teach_bf16
from tests.model.small_model import wrong_kernel


def main() -> None:
    print(wrong_kernel("triton"))
    teach_bf16()
    print(wrong_kernel("triton"))


if __name__ == "__main__":
    main()
