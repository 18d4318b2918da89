"""How ranks share a model, and which layouts there can be. Pure."""

from dataclasses import dataclass

from model.require import one_of, require_positive


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """How the ranks divide the work: dp_replicate × dp_shard × cp × tp, the last the innermost. It never changes the model."""

    dp_replicate: int = 1
    """Groups of ranks that each hold every parameter once (HSDP); they see different rows."""
    dp_shard: int = 1
    """Ranks that hold different rows and a shard of every parameter (FSDP2)."""
    cp: int = 1
    """Ranks that share the tokens of a row, and within a mixer its heads (Ulysses)."""
    tp: int = 1
    """Ranks that share the heads of every layer, and between the layers the tokens (sequence parallelism)."""

    def __post_init__(self) -> None:
        for name in ("dp_replicate", "dp_shard", "cp", "tp"):
            require_positive("parallel", name, getattr(self, name))

    @property
    def dp(self) -> int:
        """Ranks that see different rows."""
        return self.dp_replicate * self.dp_shard

    @property
    def world_size(self) -> int:
        return self.dp * self.cp * self.tp

    def __str__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("dp_replicate", "dp_shard", "cp", "tp")}
        return " × ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "one rank"


def validate_heads(num_heads: int, parallel: ParallelConfig) -> None:
    """Raises ValueError when heads can't be shared by cp · tp ranks: a head is never split."""
    divisors = [number for number in range(1, num_heads + 1) if num_heads % number == 0]
    if num_heads % parallel.tp:
        raise ValueError(f"parallel.tp={parallel.tp}: {num_heads} heads; use {one_of(divisors)}")
    left = [number for number in divisors if (num_heads // parallel.tp) % number == 0]
    if parallel.cp not in left:
        among = f", {num_heads // parallel.tp} on each rank of parallel.tp={parallel.tp}" if parallel.tp > 1 else ""
        raise ValueError(f"parallel.cp={parallel.cp}: {num_heads} heads{among}; use {one_of(left)}")


def validate_rows(name: str, size: int, parallel: ParallelConfig) -> None:
    """Raises ValueError when ceil(size / tp) rows on each rank leave the last rank with none. `name` is the key that says the size."""
    if -(-size // parallel.tp) * (parallel.tp - 1) >= size:
        raise ValueError(f"parallel.tp={parallel.tp}: leaves a rank without any of model.{name}={size}; use a smaller tp")


def validate_world(parallel: ParallelConfig, num_ranks: int) -> None:
    """Raises ValueError when the layout is for another number of ranks than there are."""
    if parallel.world_size != num_ranks:
        raise ValueError(
            f"parallel.dp_shard={parallel.dp_shard}: {parallel} is {parallel.world_size} ranks, but there are {num_ranks}; "
            f"make dp_replicate × dp_shard × cp × tp equal {num_ranks}"
        )
