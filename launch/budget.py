"""What a configuration amounts to: layout, tokens, parameters, compute, memory. Pure."""

from model.config import flops_per_token, num_params
from orchestrator.config import RunConfig

BYTES_PER_PARAM = 16
"""fp32 weight, gradient and Adam's two moments; all sharded."""
_UNITS = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def budget_lines(config: RunConfig) -> list[str]:
    """Layout and token budget, one line each."""
    parallel, train = config.parallel, config.train
    world_size, per_node = parallel.world_size, min(config.resources.workers_per_node, parallel.world_size)
    params = num_params(config.model)
    tokens = config.tokens_per_step * train.num_steps
    passes = train.batch_rows // (parallel.dp_shard * train.micro_rows)
    flops = flops_per_token(config.model, config.data.seq_len) * tokens
    return [
        f"layout: {_count(config.num_nodes, 'node')} × {_count(per_node, 'worker')} ({config.resources.device}) = "
        f"dp_shard {parallel.dp_shard} × tp {parallel.tp}",
        f"batch: {train.batch_rows} rows × {config.data.seq_len} tokens = {config.tokens_per_step:,} tokens a step; "
        f"{_count(passes, 'pass')} of {_count(train.micro_rows, 'row')} on each data-parallel rank",
        f"tokens: {train.num_steps:,} steps × {config.tokens_per_step:,} = {tokens:,} ({tokens / params:.3g} for each parameter)",
        f"model: {params:,} parameters, {config.model.num_layers} layers, {config.model.num_attention_layers} of them attention",
        f"compute: {human(flops)}FLOP in all",
        f"memory: {human(params * BYTES_PER_PARAM / world_size)}B a worker for weights, gradients and optimizer, activations on top",
        f"checkpoints: {human(params * 12)}B each, every {_count(config.checkpoint.every_steps, 'step')}; "
        f"the newest {config.checkpoint.keep_latest} are kept",
    ]


def human(number: float) -> str:
    """Three digits and a decimal prefix: 1234567 → '1.23 M'."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}es" if noun.endswith("s") else f"{number} {noun}s"
