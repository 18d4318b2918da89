"""What a configuration amounts to: layout, tokens, schedule, parameters, compute, memory. Pure."""

import math

from data_pipeline.stages import Stage
from launch.config.compute_cost import flops_of_steps
from launch.config.node_memory import NodeMemory, node_memory
from launch.units import count, human, memory_unit
from model.config import ModelConfig
from model.costs.memory import MemoryPrediction, predict_memory
from model.mixers.registry import MIXERS
from model.optim.schedule import decay_steps, warmup_steps
from model.parameters import num_params
from orchestrator.config import RunConfig

BLOCK_TOKENS = 2**20
"""Of a block of `data.shuffle=blocks`, see `data_pipeline/order/blocks.py`."""
CHECKPOINT_BYTES_PER_PARAM = 12
"""fp32 weight and Adam's two moments; Muon has one."""


def budget_lines(config: RunConfig) -> list[str]:
    """Layout and token budget, one line each."""
    parallel, train = config.parallel, config.train
    per_node = min(config.resources.workers_per_node, parallel.world_size)
    params = num_params(config.model)
    tokens = config.tokens_until(train.num_steps)
    return [
        f"layout: {count(config.num_nodes, 'node')} × {count(per_node, 'worker')} ({config.resources.device}) = {parallel}",
        *_batch_lines(config),
        f"tokens: {train.num_steps:,} steps, {tokens:,} tokens ({tokens / params:.3g} for each parameter)",
        _schedule_line(config),
        f"model: {params:,} parameters, {_layers(config.model)}",
        f"compute: {human(_flops(config))}FLOP in all",
        _memory_line(config),
        _node_memory_line(config),
        f"checkpoints: up to {human(params * CHECKPOINT_BYTES_PER_PARAM)}B each, every {count(config.checkpoint.every_steps, 'step')}; "
        f"the newest {config.checkpoint.keep_latest} are kept",
    ]


def _batch_lines(config: RunConfig) -> list[str]:
    """A line for each phase, where there are some."""
    lines = []
    for number, stage in enumerate(config.stages, start=1):
        passes = stage.batch_rows // (config.parallel.dp * stage.micro_rows)
        name = f"phase {number}, from step {stage.first_step:,}" if config.data.phases else "batch"
        lines.append(
            f"{name}: {stage.batch_rows} rows × {stage.seq_len} tokens = {stage.tokens_per_step:,} tokens a step; "
            f"{count(passes, 'pass')} of {count(stage.micro_rows, 'row')} on each data-parallel rank"
        )
    return lines


def _flops(config: RunConfig) -> float:
    """Of the whole run."""
    ends = [*(stage.first_step - 1 for stage in config.stages[1:]), config.train.num_steps]
    return flops_of_steps(config, [end - stage.first_step + 1 for stage, end in zip(config.stages, ends, strict=True)])


def warnings_of(config: RunConfig) -> list[str]:
    """What can be run, but is hardly meant; one line each."""
    return [*_warmup_warnings(config), *_cache_warnings(config), *_lane_warnings(config)]


def _cache_warnings(config: RunConfig) -> list[str]:
    """Of a cache that drops blocks before all of their samples are read."""
    data, parallel = config.data, config.parallel
    if data.shuffle != "blocks" or not config.storage.is_s3:
        return []
    groups = -(-min(config.resources.workers_per_node, parallel.world_size) // (parallel.cp * parallel.tp))
    rows = min(groups, parallel.dp) * config.train.batch_rows // parallel.dp
    needed = len(data.datasets) * data.shuffle_window * rows * BLOCK_TOKENS * (2 if config.model.vocab_size <= 2**16 else 4)
    if needed <= data.cache_limit:
        return []
    of_each = f" and {len(data.datasets)} datasets" if len(data.datasets) > 1 else ""
    return [
        f"data.shuffle_window={data.shuffle_window}: that many blocks for each of a node's {count(rows, 'row')}{of_each} are "
        f"{human(needed)}B, and "
        f"data.cache_limit={human(data.cache_limit)}B: blocks will be fetched again and again; lower data.shuffle_window or raise it"
    ]


def _lane_warnings(config: RunConfig) -> list[str]:
    """Of batches whose rows go through other lanes of blocks at every step, so that other nodes fetch the same blocks."""
    if config.data.shuffle != "blocks" or config.num_nodes == 1 or not config.storage.is_s3:
        return []
    batches = {stage.batch_rows for stage in config.stages}
    lanes = max(batches)
    times = {rows: times_fetched(rows, lanes=lanes, num_nodes=config.num_nodes) for rows in batches}
    return [
        f"a batch of {count(rows, 'row')} does not divide the largest, {lanes}: while it lasts each of {config.num_nodes} nodes fetches "
        f"{times[rows]} times the blocks that it uses; take divisors of {lanes} for the others"
        for rows in sorted(batches)
        if times[rows] > 1
    ]


def times_fetched(rows: int, *, lanes: int, num_nodes: int) -> int:
    """How often a block is fetched, by one node or another, while a batch of so many rows is trained on with `data.shuffle=blocks`.

    Every step moves each row by the batch's length, so in time it comes through all lanes that are a common divisor apart.
    """
    return min(num_nodes, rows // math.gcd(rows, lanes))


def _warmup_warnings(config: RunConfig) -> list[str]:
    warmup, num_steps = warmup_steps(config.optimizer, config.tokens_per_step), config.train.num_steps
    if warmup < num_steps:
        return []
    key = "warmup_tokens" if config.optimizer.warmup_tokens else "warmup_steps"
    return [
        f"the run ends within its warmup: {count(warmup, 'step')} of it, and train.num_steps={num_steps}; "
        f"lower optimizer.{key}, or train longer"
    ]


def _schedule_line(config: RunConfig) -> str:
    optimizer, num_steps = config.optimizer, config.train.num_steps
    warmup = warmup_steps(optimizer, config.tokens_per_step)
    skipping = "no update is skipped"
    if optimizer.skip_sigma:
        skipping = f"updates {optimizer.skip_sigma:g}σ above the last {optimizer.skip_window} are skipped"
    if warmup >= num_steps:
        reached = optimizer.lr * num_steps / warmup
        return f"schedule: {num_steps:,} of {count(warmup, 'step')} of warmup, up to lr {reached:.3g} of {optimizer.lr:g}; {skipping}"
    start = f"{count(warmup, 'step')} of warmup to lr {optimizer.lr:g}" if warmup else f"lr {optimizer.lr:g} without warmup"
    floor = f"{100 * optimizer.lr_floor:g} % at step {num_steps:,}"
    if optimizer.schedule != "wsd":
        return f"schedule: {start}, {optimizer.schedule} to {floor}; {skipping}"
    decay = count(decay_steps(optimizer, config.tokens_per_step), "step")
    return f"schedule: {start}, wsd: constant, then in the last {decay} linear to {floor}; {skipping}"


def _memory_line(config: RunConfig) -> str:
    memory = max((_memory_of(config, stage) for stage in config.stages), key=lambda memory: memory.total)
    state = memory.parameters + memory.gradients + memory.optimizer
    unit, its_bytes = memory_unit(memory.total)
    return (
        f"memory: {memory.total / its_bytes:,.2f} {unit} a worker, {state / its_bytes:,.2f} {unit} of it for weights, gradients "
        "and optimizer, the rest for activations"
    )


def memory_of_each_node(config: RunConfig) -> NodeMemory:
    """What the run's state takes of it."""
    return node_memory(
        _memory_of(config, config.stages[0]).state,
        num_ranks=min(config.resources.workers_per_node, config.parallel.world_size),
        num_nodes=config.num_nodes,
        snapshots=config.snapshot.enabled,
        mirror=config.snapshot.mirror,
    )


def _node_memory_line(config: RunConfig) -> str:
    needed = memory_of_each_node(config)
    if not config.snapshot.enabled:
        return f"checkpoints pass through {human(needed.own)}B of each node's memory; there are no snapshots (snapshot.enabled)"
    copies = f", and {human(needed.mirrored)}B for another node's (snapshot.mirror)" if needed.mirrored else ""
    return f"snapshots: {human(needed.own)}B of each node's memory for its own ranks{copies}"


def _memory_of(config: RunConfig, stage: Stage) -> MemoryPrediction:
    return predict_memory(
        config.model,
        config.parallel,
        config.compute,
        config.optimizer,
        micro_rows=stage.micro_rows,
        seq_len=stage.seq_len,
        compute_bytes=2 if config.resources.device == "cuda" else 4,
        device_type=config.resources.device,
    )


def _layers(model: ModelConfig) -> str:
    kinds = model.layer_kinds
    return f"{len(kinds)} layers ({', '.join(f'{kinds.count(kind)} {kind}' for kind in MIXERS if kind in kinds)})"
