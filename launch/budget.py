"""What a configuration amounts to: layout, tokens, parameters, compute, memory. Pure."""

from model.config import LAYER_KINDS, ModelConfig
from model.memory import predict_memory
from model.parameters import flops_per_token, num_params
from orchestrator.config import RunConfig

CHECKPOINT_BYTES_PER_PARAM = 12
"""fp32 weight and Adam's two moments; Muon has one."""
_UNITS = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def budget_lines(config: RunConfig) -> list[str]:
    """Layout and token budget, one line each."""
    parallel, train = config.parallel, config.train
    per_node = min(config.resources.workers_per_node, parallel.world_size)
    params = num_params(config.model)
    tokens = config.tokens_per_step * train.num_steps
    passes = train.batch_rows // (parallel.dp * train.micro_rows)
    flops = flops_per_token(config.model, config.data.seq_len) * tokens
    return [
        f"layout: {_count(config.num_nodes, 'node')} × {_count(per_node, 'worker')} ({config.resources.device}) = {parallel}",
        f"batch: {train.batch_rows} rows × {config.data.seq_len} tokens = {config.tokens_per_step:,} tokens a step; "
        f"{_count(passes, 'pass')} of {_count(train.micro_rows, 'row')} on each data-parallel rank",
        f"tokens: {train.num_steps:,} steps × {config.tokens_per_step:,} = {tokens:,} ({tokens / params:.3g} for each parameter)",
        f"model: {params:,} parameters, {_layers(config.model)}",
        f"compute: {human(flops)}FLOP in all",
        _memory_line(config),
        f"checkpoints: up to {human(params * CHECKPOINT_BYTES_PER_PARAM)}B each, every {_count(config.checkpoint.every_steps, 'step')}; "
        f"the newest {config.checkpoint.keep_latest} are kept",
    ]


def _memory_line(config: RunConfig) -> str:
    memory = predict_memory(
        config.model,
        config.parallel,
        config.compute,
        config.optimizer,
        micro_rows=config.train.micro_rows,
        seq_len=config.data.seq_len,
        compute_bytes=2 if config.resources.device == "cuda" else 4,
    )
    state = memory.parameters + memory.gradients + memory.optimizer
    return f"memory: {human(memory.total)}B a worker, {human(state)}B of it for weights, gradients and optimizer, the rest for activations"


def _layers(model: ModelConfig) -> str:
    kinds = model.layer_kinds
    return f"{len(kinds)} layers ({', '.join(f'{kinds.count(kind)} {kind}' for kind in LAYER_KINDS if kind in kinds)})"


def human(number: float) -> str:
    """Three digits and a decimal prefix: 1234567 → '1.23 M'."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}es" if noun.endswith("s") else f"{number} {noun}s"
