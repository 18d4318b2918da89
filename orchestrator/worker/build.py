"""From a configuration to a trainer that stands where its run last stood."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.dataset.manifest import DatasetManifest
from data_pipeline.dataset.mixture import exhaustion, load_manifests, problem_with
from data_pipeline.dataset.shards import lies_on_s3
from data_pipeline.read.loader import Loader, build_loader
from data_pipeline.store.open import open_beside
from data_pipeline.store.protocol import ObjectStore
from model.build import shard_model
from model.lm import HybridLM
from model.optim.adamw import AdamW
from model.optim.build import build_optimizer
from model.train.determinism import set_determinism
from model.train.spikes import build_spike_guard
from model.weights.initial import init_weights
from orchestrator import codec
from orchestrator.config import RunConfig, StartConfig, training_digest
from orchestrator.errors import ConfigMismatch
from orchestrator.messages import Committed, Phase, Resumed
from orchestrator.records.holds import release_start, remove_void_holds
from orchestrator.records.keys import store_of_run
from orchestrator.records.ledger import setting_of
from orchestrator.records.leftovers import remove_abandoned
from orchestrator.worker.checkpoint import CheckpointTerms, Committer, build_checkpointer
from orchestrator.worker.evaluation import build_evaluation
from orchestrator.worker.feed import build_feed
from orchestrator.worker.fenced import FencedAttempt, begin_attempt
from orchestrator.worker.memory_room import memory_that_fits
from orchestrator.worker.pace import Pace
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.resume import Resumer, load_start
from orchestrator.worker.saver import Saver
from orchestrator.worker.snapshots import Snapshots, build_snapshots
from orchestrator.worker.trainer import Trainer
from orchestrator.worker.training_state import training_state
from orchestrator.worker.witness import Witnesses
from orchestrator.worker.world import World

log = logging.getLogger(__name__)


def build_trainer(
    config: RunConfig,
    world: World,
    store: ObjectStore,
    *,
    attempt_number: int | None,
    reporter: Reporter,
    stop: threading.Event,
    cache_dir: Path,
    memory: Sequence[int] = (),
    joining_s: float = 0.0,
) -> Trainer:
    """See `session.train_once`; `attempt_number` None begins the run's next attempt. Raises Fenced, ConfigMismatch, NoCheckpoint, …."""
    reporter.enter(Phase.LOADING)
    began_s = time.monotonic()
    attempt = _begin_attempt(config, world, store, attempt_number)
    loader = _build_loader(config, world, store, cache_dir)
    model, optimizer = _build_model(config, world)
    spikes = build_spike_guard(config.optimizer)
    state = training_state(model, optimizer, spikes)
    snapshots = _build_snapshots(config, world, attempt, loader, optimizer, state, memory)
    if (resumed := _build_resumer(config, world, store, attempt, loader).load_latest(state, snapshots)).step == 0:
        _begin(config, world, store, model, optimizer)
    _tell(replace(resumed, joining_s=joining_s, loading_s=time.monotonic() - began_s, device=_kind_of(world.device)), world, reporter)
    return Trainer(
        config=config,
        world=world,
        model=model,
        optimizer=optimizer,
        spikes=spikes,
        loader=loader,
        feed=build_feed(loader, config, world),
        evaluation=build_evaluation(config, world, store, cache_dir),
        attempt=attempt,
        saver=_build_saver(config, world, store, attempt, loader, reporter, state, snapshots),
        reporter=reporter,
        stop=stop,
        resumed=resumed,
        setting=setting_of(config, torch_version=torch.__version__),
    )


def _begin_attempt(config: RunConfig, world: World, store: ObjectStore, number: int | None) -> FencedAttempt:
    attempt = begin_attempt(store_of_run(store, config.name), world.exchange, number)
    log.info("run %s, attempt %d, rank %d, %s, %s", config.name, attempt.number, world.rank, config.parallel, world.device)
    return attempt


def _kind_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _tell(resumed: Resumed, world: World, reporter: Reporter) -> None:
    reporter.resumed_at(resumed.step)
    if world.is_first:
        reporter.send(resumed)


def _build_loader(config: RunConfig, world: World, store: ObjectStore, cache_dir: Path) -> Loader:
    manifests = load_manifests(store, config.data)
    if problem := problem_with(manifests, vocab_size=config.model.vocab_size):
        raise ConfigMismatch(problem)
    loader = build_loader(
        manifests=manifests,
        config=config.data,
        store=store,
        cache_dir=cache_dir,
        batch_rows=config.train.batch_rows,
        dp_rank=world.mesh.dp_rank,
        dp_size=config.parallel.dp,
        keeps_blocks=any(lies_on_s3(manifest, config.storage) for manifest in manifests),
        elsewhere=open_beside(config.storage),
    )
    if problem := exhaustion(loader.plan, config.train.num_steps):
        raise ConfigMismatch(problem)
    return loader


def _build_model(config: RunConfig, world: World) -> tuple[HybridLM, AdamW]:
    """bf16 in the forward on a GPU, fp32 on the CPU; master weights are fp32 on both, and hold nothing yet."""
    if config.train.deterministic:
        set_determinism(config.train.seed)
    model = shard_model(
        config.model,
        world.mesh,
        device=world.device,
        compute=config.compute,
        compute_dtype=torch.bfloat16 if world.device.type == "cuda" else torch.float32,
    )
    return model, build_optimizer(model, model.declared, config.optimizer)


def _build_resumer(config: RunConfig, world: World, store: ObjectStore, attempt: FencedAttempt, loader: Loader) -> Resumer:
    return Resumer(
        run=config.name,
        store=store_of_run(store, config.name),
        witnesses=_witnesses(world),
        attempt=attempt,
        training_digest=training_digest(config),
        dataset_digest=_digest_of(loader.manifests),
        order_digest=loader.plan.digest,
    )


def _digest_of(manifests: Sequence[DatasetManifest]) -> str:
    """That of one alone is its own, as it was when there could be no other."""
    return codec.digest(manifests[0] if len(manifests) == 1 else tuple(manifests))


def _begin(config: RunConfig, world: World, store: ObjectStore, model: HybridLM, optimizer: torch.optim.Optimizer) -> None:
    """The weights of step 0: another run's, or the seed's."""
    if config.start.run:
        load_start(store, _witnesses(world), config, _state_to_begin_with(config.start, model, optimizer))
    else:
        init_weights(model, model.declared, config.train.seed)


def _state_to_begin_with(start: StartConfig, model: HybridLM, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    if start.optimizer == "reset":
        return {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    return training_state(model, optimizer)


def _build_saver(
    config: RunConfig,
    world: World,
    store: ObjectStore,
    attempt: FencedAttempt,
    loader: Loader,
    reporter: Reporter,
    state: Mapping[str, Tensor],
    snapshots: Snapshots,
) -> Saver:
    """`store` is the storage root."""
    checkpointer = build_checkpointer(
        store_of_run(store, config.name),
        state,
        attempt=attempt.number,
        exchange=world.save_exchange,
        committer=_build_committer(config, store, attempt, loader, reporter),
        snapshots=snapshots,
    )
    return Saver(
        config=config.checkpoint,
        state=state,
        snapshots=snapshots,
        checkpointer=checkpointer,
        pace=Pace(every_s=config.snapshot.every_s, last_s=time.monotonic()),
        exchange=world.exchange,
        reporter=reporter,
        ledger=attempt.ledger,
    )


def _build_committer(config: RunConfig, store: ObjectStore, attempt: FencedAttempt, loader: Loader, reporter: Reporter) -> Committer | None:
    """The first rank's; `store` is the storage root."""
    if attempt.commit_log is None or attempt.ledger is None:
        return None
    terms = CheckpointTerms(
        run=config.name,
        attempt=attempt.number,
        model=config.model,
        layout=config.parallel,
        training_digest=training_digest(config),
        dataset_digest=_digest_of(loader.manifests),
        plan=loader.plan,
        keep_latest=config.checkpoint.keep_latest,
    )
    return Committer(
        store_of_run(store, config.name),
        terms=terms,
        commit_log=attempt.commit_log,
        ledger=attempt.ledger,
        on_commit=lambda step: reporter.send(Committed(step=step)),
        on_loss=reporter.send,
        tidy=lambda: _tidy(store, config),
    )


def _build_snapshots(
    config: RunConfig,
    world: World,
    attempt: FencedAttempt,
    loader: Loader,
    optimizer: AdamW,
    state: Mapping[str, Tensor],
    memory: Sequence[int],
) -> Snapshots:
    """Those of other terms are not this rank's. Updates wait until they are copied."""
    terms = (config.name, training_digest(config), _digest_of(loader.manifests), config.parallel, world.rank, torch.__version__)
    wanted = memory if config.snapshot.enabled else ()
    ranks_per_node = min(world.ranks_per_node, config.parallel.world_size)
    snapshots = build_snapshots(
        memory_that_fits(wanted, state, exchange=world.exchange, ranks_per_node=ranks_per_node),
        state,
        rank=world.rank,
        world_size=config.parallel.world_size,
        attempt=attempt.number,
        terms=codec.digest(terms),
        device=world.device,
    )
    optimizer.register_step_pre_hook(lambda *_: snapshots.before_update())
    return snapshots


def _tidy(store: ObjectStore, config: RunConfig) -> None:
    """Once in an attempt, when the run has a checkpoint of its own."""
    release_start(store, config)
    remove_void_holds(store, config.name, now_s=time.time())
    remove_abandoned(store, now_s=time.time())


def _witnesses(world: World) -> Witnesses:
    return Witnesses(exchange=world.exchange, ranks_per_node=world.ranks_per_node)
