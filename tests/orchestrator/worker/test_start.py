"""A new stage from an older run's weights: what is taken along, what begins anew, and what is refused before anything is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_pipeline.store.protocol import AccessDenied, KeyMissing, with_prefix
from model.build import build_model
from model.config import ModelConfig
from model.lm import HybridLM
from model.optim.build import build_optimizer
from model.optim.config import OptimizerConfig
from orchestrator.config import RunConfig, StartConfig, training_digest
from orchestrator.errors import ConfigMismatch, HostCorrupts, NoCheckpoint, PeerFailed
from orchestrator.records.holds import release_start
from orchestrator.records.origin import find_start
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.resume import load_start
from orchestrator.worker.training_state import training_state
from orchestrator.worker.weights import write_weights
from orchestrator.worker.witness import Witnesses
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.ranks import begin, flip_a_byte, on_ranks
from tests.orchestrator.worker.test_weights import random_weights
from tests.orchestrator.worker.tiny_run import MODEL, SEQ_LEN, VOCAB_SIZE, tiny_config

ADAMW = OptimizerConfig(lr=1e-2, warmup_steps=1)


def stage(start: StartConfig, model: ModelConfig = MODEL, optimizer: OptimizerConfig = ADAMW) -> RunConfig:
    return replace(tiny_config(Path("/nowhere")), name="second", model=model, optimizer=optimizer, start=start)


def fresh(model: ModelConfig = MODEL, optimizer: OptimizerConfig = ADAMW, *, seed: int = 1) -> tuple[HybridLM, torch.optim.Optimizer]:
    module = build_model(model, None, device=torch.device("cpu"), seed=seed)
    return module, build_optimizer(module, module.declared, optimizer)


def loss_of(module: HybridLM) -> Tensor:
    tokens = torch.randint(VOCAB_SIZE, (2, SEQ_LEN + 1), generator=torch.Generator().manual_seed(7))
    return module.loss_sum(tokens[:, :-1], tokens[:, 1:], z_loss=0.0, chunk_tokens=64)[0]


def trained() -> tuple[HybridLM, torch.optim.Optimizer]:
    """After three steps."""
    module, optimizer = fresh(seed=0)
    for _ in range(3):
        loss_of(module).backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def save_first(root: MemoryStore, exchange: Exchange, step: int, state: dict[str, Tensor], *, attempt: int = 1) -> None:
    """As the run `first` saves."""
    training = begin(with_prefix(root, "runs/first"), exchange, attempt, like=state)
    training.record(step)
    training.checkpointer.save(step, state)
    training.checkpointer.wait()


def weights_of(module: HybridLM) -> dict[str, Tensor]:
    return {f"model.{name}": parameter.detach() for name, parameter in module.named_parameters()}


def test_the_new_stage_begins_with_the_old_weights_and_fresh_moments(exchange: Exchange):
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))
    new, _ = fresh()

    load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), stage(StartConfig(run="first")), weights_of(new))

    assert torch.equal(loss_of(new), loss_of(old))


def test_kept_moments_and_step_counts_are_kept_bit_for_bit(exchange: Exchange):
    root, (old, old_optimizer) = MemoryStore(), trained()
    kept = training_state(old, old_optimizer)
    save_first(root, exchange, 3, kept)
    new, new_optimizer = fresh()

    load_start(
        root,
        Witnesses(exchange=exchange, ranks_per_node=1),
        stage(StartConfig(run="first", optimizer="keep")),
        state := training_state(new, new_optimizer),
    )

    assert state.keys() == kept.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, kept[name]), name
    assert state["optimizer.norm.weight.step"] == 3.0


def test_only_shapes_decide_whether_weights_fit(exchange: Exchange):
    """RoPE may go (DroPE) and windows may change from one stage to the next."""
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))

    without_rope = replace(MODEL, rope_theta=0.0, window=7)

    assert find_start(root, stage(StartConfig(run="first"), without_rope)).step == 3


def test_imported_weights_are_cast_upward_exactly(exchange: Exchange):
    root, source = MemoryStore(), random_weights(5, torch.bfloat16)
    write_weights(with_prefix(root, "runs/olmo"), source, run="olmo", model=MODEL, origin="imported from /hf", companions={})
    new, _ = fresh()

    load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), stage(StartConfig(run="olmo")), weights_of(new))

    for name, parameter in new.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, source.held[name].float()), name


def test_weights_that_would_lose_bits_are_refused(exchange: Exchange):
    root, source = MemoryStore(), random_weights(5, torch.float64)
    write_weights(with_prefix(root, "runs/olmo"), source, run="olmo", model=MODEL, origin="imported from /hf", companions={})
    new, _ = fresh()

    with pytest.raises(ConfigMismatch, match=r"^start.run=olmo, step 0: model.\S+ is float64\[.*\], this run needs float32\["):
        load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), stage(StartConfig(run="olmo")), weights_of(new))


def test_the_step_can_be_chosen_and_is_the_newest_otherwise(exchange: Exchange):
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))
    save_first(root, exchange, 6, training_state(old, old_optimizer), attempt=2)

    assert find_start(root, stage(StartConfig(run="first"))).step == 6
    assert find_start(root, stage(StartConfig(run="first", step=3))).step == 3
    with pytest.raises(NoCheckpoint, match=r"^start.run=first: has no checkpoint of step 4; use one of 6, 3$"):
        find_start(root, stage(StartConfig(run="first", step=4)))


def test_a_run_that_is_not_there_is_one_line():
    with pytest.raises(NoCheckpoint, match=r"^start.run=first: there is no committed checkpoint of it; see `braid runs`"):
        find_start(MemoryStore(), stage(StartConfig(run="first")))


def test_another_model_is_refused_by_its_first_different_parameter(exchange: Exchange):
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))

    wider, deeper = replace(MODEL, ffn_width=64), replace(MODEL, num_layers=3)

    line = r"^start.run=first, step 3: layers.0.ffn.gate_proj.weight is \[48, 32\] there and \[64, 32\] in this run's model; use models of"
    with pytest.raises(ConfigMismatch, match=line):
        find_start(root, stage(StartConfig(run="first"), wider))
    with pytest.raises(ConfigMismatch, match=r"layers.2.mixer.q_proj.weight is missing there and \[24, 32\] in this run's model"):
        find_start(root, stage(StartConfig(run="first"), deeper))


def test_moments_that_are_not_there_can_not_be_kept(exchange: Exchange):
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))
    write_weights(with_prefix(root, "runs/olmo"), random_weights(5), run="olmo", model=MODEL, origin="imported from /hf", companions={})
    muon = OptimizerConfig(name="muon", warmup_steps=1)

    with pytest.raises(
        ConfigMismatch, match=r"^start.optimizer=keep: start.run=olmo holds weights only \(imported from /hf\); use start.op"
    ):
        find_start(root, stage(StartConfig(run="olmo", optimizer="keep")))
    keeping = stage(StartConfig(run="first", optimizer="keep"), optimizer=muon)
    with pytest.raises(ConfigMismatch, match=r"^start.run=first, step 3: has no optimizer.\S+.momentum_buffer, .*set optimizer.name as"):
        load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), keeping, training_state(*fresh(optimizer=muon)))


def test_a_damaged_start_ends_the_run_and_says_what_to_choose(exchange: Exchange):
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))
    flip_a_byte(root, "runs/first/checkpoints/step-000000003-a0001/__0_0.distcp")
    new, _ = fresh()

    with pytest.raises(NoCheckpoint, match=r"^start.run=first, step 3: \S+ is not what was written.*; choose another checkpoint with"):
        load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), stage(StartConfig(run="first")), weights_of(new))


@pytest.mark.parametrize(("name", "rank"), [(".distcp", 1), ("manifest.json", 0), (".metadata", 0)])
def test_a_start_that_one_host_misreads_is_that_hosts_fault(exchange: Exchange, name: str, rank: int):
    """The first rank alone reads the manifest."""
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))

    def lost(operation: str, key: str) -> None:
        if operation.startswith("get") and key.endswith(name):
            raise KeyMissing("no such object")

    def begin_second(exchange: Exchange) -> None:
        store = replace(root, fault=lost) if exchange.rank == rank else root
        load_start(store, Witnesses(exchange=exchange, ranks_per_node=1), stage(StartConfig(run="first")), weights_of(fresh()[0]))

    assert [type(error) for error in on_ranks(2, begin_second)] == [HostCorrupts if one == rank else PeerFailed for one in range(2)]


def test_what_a_run_begins_from_stays_until_it_has_a_checkpoint_of_its_own(exchange: Exchange):
    """The older run still trains, and would keep no more than its last two."""
    root, (old, old_optimizer) = MemoryStore(), trained()
    state = training_state(old, old_optimizer)
    first = begin(with_prefix(root, "runs/first"), exchange, 1, like=state)

    def train_on(*steps: int) -> set[str]:
        for step in steps:
            first.record(step)
            first.checkpointer.save(step, state)
            first.checkpointer.wait()
        return {key.split("/")[3] for key in root.objects if key.startswith("runs/first/checkpoints/")}

    train_on(3)
    config = stage(StartConfig(run="first", step=3))
    load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), config, weights_of(fresh()[0]))
    assert train_on(6, 9, 12) == {f"step-{step:09d}-a0001" for step in (3, 9, 12)}

    load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), config, weights_of(fresh()[0]))  # after a crash, it begins again
    second = begin(with_prefix(root, "runs/second"), exchange, 2, tidy=lambda: release_start(root, config))
    second.save(1)
    assert train_on(15) == {f"step-{step:09d}-a0001" for step in (12, 15)}


def test_a_run_that_may_not_write_beside_the_older_one_begins_all_the_same(exchange: Exchange, caplog: pytest.LogCaptureFixture):
    root, (old, old_optimizer) = MemoryStore(), trained()
    save_first(root, exchange, 3, training_state(old, old_optimizer))

    def refuse(operation: str, key: str) -> None:
        if operation == "put":
            raise AccessDenied("read only")

    root.fault = refuse
    load_start(root, Witnesses(exchange=exchange, ranks_per_node=1), stage(StartConfig(run="first")), weights_of(fresh()[0]))

    assert "run first may remove its step 3 before it is read: read only" in caplog.messages


def test_weights_alone_are_not_resumed(exchange: Exchange):
    root = MemoryStore()
    write_weights(root, random_weights(5), run="first", model=MODEL, origin="average of a@1, b@1", companions={})

    with pytest.raises(
        ConfigMismatch, match=r"^run first: holds weights only \(average of a@1, b@1\); train from them with start.run=first "
    ):
        begin(root, exchange, 2).load()


def test_where_a_run_starts_is_part_of_what_decides_its_numbers():
    first, second = (stage(StartConfig(run="first", step=step)) for step in (3, 6))

    assert training_digest(first) != training_digest(second)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"run": "second"}, "start.run=second: is this run itself"),
        ({"run": "../other"}, "start.run='../other': not the name of a run"),
        ({"run": "first", "step": -2}, "start.step=-2: use the step of a checkpoint, or -1"),
        ({"step": 5}, "start.run: missing"),
        ({"run": "first", "optimizer": "drop"}, "start.optimizer=drop: use reset or keep"),
    ],
)
def test_a_start_that_makes_no_sense_is_one_line(settings: dict[str, object], line: str):
    with pytest.raises(ValueError, match=f"^{line}"):
        stage(StartConfig(**settings))  # type: ignore[arg-type]
