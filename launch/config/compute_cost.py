"""What steps compute, and what a GPU could. Pure."""

from collections.abc import Sequence

from model.costs.flops import flops_per_token
from orchestrator.config import RunConfig

PEAK_FLOPS = {"GB200": 2500e12, "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 a second, by what the driver's name for the GPU has in it; the first that fits counts."""


def flops_of_steps(config: RunConfig, num_steps: Sequence[int]) -> float:
    """Of so many steps of each stage of the run, as `braid model` counts them: those of a token depend on the length of its row."""
    return sum(
        number * stage.tokens_per_step * flops_per_token(config.model, stage.seq_len)
        for stage, number in zip(config.stages, num_steps, strict=True)
    )


def peak_flops(device: str) -> float | None:
    """Of a GPU by the driver's name; None of a kind that is not known, and of a CPU."""
    return next((peak for kind, peak in PEAK_FLOPS.items() if kind in device), None)
