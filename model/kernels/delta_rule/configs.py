"""Tile sizes, warps and stages of the delta rule's kernels, per GPU architecture and head dims. Nothing is tuned at run time."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How one kernel is compiled and launched."""

    warps: int
    stages: int = 1
    """Loop iterations whose loads are in flight at once."""
    max_registers: int | None = None
    """Most registers of a thread: few, where more programs on a multiprocessor are worth spilling some. None leaves it to the compiler."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelConfig:
    """Tiles and launches of the four kernels."""

    scan_value_block: int
    """Rows of the transposed state per program of a scan, a power of two that divides V. 64 and more fill a warpgroup's product."""
    gradient_value_block: int
    """Columns of V per step of `chunk_gradients`, a power of two that divides V."""
    prepare: Launch
    forward: Launch
    backward: Launch
    gradients: Launch


HOPPER = 90
"""10 × major + minor of the compute capability of H100 and H200."""
CONFIGS: dict[tuple[int, int, int], KernelConfig] = {
    # By (architecture, K, V). With fewer than 3 stages a loop waits for each step's loads.
    # H100 80GB HBM3, torch 2.11.0+cu130, Triton 3.6.0, 1 × 8192 tokens, 30 heads: prepare 132, forward 229, backward 214,
    # gradients 444 µs, before the last two took beta and v. H200, since then: 371 µs forward, 669 backward.
    (HOPPER, 96, 192): KernelConfig(
        scan_value_block=64,
        gradient_value_block=64,
        prepare=Launch(warps=4, max_registers=168),
        forward=Launch(warps=4, stages=4),
        backward=Launch(warps=4, stages=4),
        gradients=Launch(warps=8, stages=4),
    ),
} | {
    # Not chosen among others. H200, 32 heads: forward 394 and 402 µs, backward 763 and 876 (V 128 and 256).
    (HOPPER, 128, value_dim): KernelConfig(
        scan_value_block=64,
        gradient_value_block=64,
        prepare=Launch(warps=4, max_registers=168),
        forward=Launch(warps=4, stages=3),
        backward=Launch(warps=4, stages=3),
        gradients=Launch(warps=8, stages=3),
    )
    for value_dim in (128, 256)
}


def choose_config(*, architecture: int, key_dim: int, value_dim: int, is_exact: bool) -> KernelConfig:
    """The entry of CONFIGS, or one by rule. `is_exact` is fp32: its tiles take twice the space, its products are not the tensor cores'."""
    if not is_exact and (architecture, key_dim, value_dim) in CONFIGS:
        return CONFIGS[architecture, key_dim, value_dim]
    largest = 16 if is_exact else 64
    # On Hopper never one in bf16: with Triton 3.6, chunk_gradients was then wrong or read out of bounds. K 256 has room for two.
    stages = (2 if key_dim > 128 else 3) if architecture == HOPPER else 2 if key_dim <= 128 else 1
    stages = 1 if is_exact else stages
    return KernelConfig(
        scan_value_block=power_of_two_in(value_dim, largest),
        gradient_value_block=power_of_two_in(value_dim, 64 >> (is_exact + (key_dim > 128))),
        prepare=Launch(warps=4, max_registers=None if is_exact or key_dim > 128 else 168),
        forward=Launch(warps=4 if key_dim < 128 else 8, stages=stages),
        backward=Launch(warps=4 if key_dim < 128 else 8, stages=stages),
        gradients=Launch(warps=8, stages=stages),
    )


def power_of_two_in(dim: int, largest: int) -> int:
    """The largest power of two that divides the dim, up to `largest`."""
    return min(dim & -dim, largest)
