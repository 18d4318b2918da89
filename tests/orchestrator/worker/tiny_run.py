"""The smallest run there is: a config, a dataset of random tokens, and real worker processes to train it."""

import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.config import DataConfig, StorageConfig
from data_pipeline.dataset.manifest import DatasetManifest, ShardRef, manifest_key, manifest_to_json
from data_pipeline.dataset.mixture import load_manifests
from data_pipeline.dataset.plan import load_plan, planned_digest
from data_pipeline.read.row_hash import token_digests
from data_pipeline.store.open import open_beside, open_store
from data_pipeline.store.protocol import ObjectStore, with_prefix
from model.config import ModelConfig
from model.optim.config import OptimizerConfig
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.config import CheckpointConfig, ResourcesConfig, RunConfig, TrainConfig
from orchestrator.messages import Assign, Ended, Failed, Message, Rendezvous, Resumed, Stop, decode, encode
from orchestrator.records.commit_log import open_commit_log
from orchestrator.records.ledger import StepRecord, read_ledger
from orchestrator.verify import Proof, verify

WORKER = "orchestrator.worker.main"
VOCAB_SIZE, SEQ_LEN, BATCH_ROWS = 256, 16, 4
MODEL = ModelConfig(
    vocab_size=VOCAB_SIZE,
    d_model=32,
    num_layers=2,
    num_heads=2,
    head_dim=16,
    gdn_key_dim=12,
    gdn_value_dim=24,
    ffn_width=48,
    layer_pattern="gdn attn",
)


def tiny_config(root: Path, *, num_steps: int = 8, dp_shard: int = 1, tp: int = 1, every_steps: int = 3, keep_latest: int = 2) -> RunConfig:
    return RunConfig(
        name="first",
        model=MODEL,
        data=DataConfig(dataset="noise", seq_len=SEQ_LEN),
        storage=StorageConfig(root=str(root)),
        optimizer=OptimizerConfig(lr=1e-2, warmup_steps=2),
        train=TrainConfig(num_steps=num_steps, batch_rows=BATCH_ROWS, micro_rows=1),
        parallel=ParallelConfig(dp_shard=dp_shard, tp=tp),
        checkpoint=CheckpointConfig(every_steps=every_steps, keep_latest=keep_latest),
        resources=ResourcesConfig(device="cpu", workers_per_node=1),
    )


def write_dataset(store: ObjectStore) -> None:
    """Two shards of random tokens, 24 samples in all, so that a run of 8 steps sees a second epoch."""
    shards = []
    for number, num_tokens in enumerate((201, 200)):
        data = np.random.default_rng(number).integers(0, VOCAB_SIZE, num_tokens).astype("<u2").tobytes()
        key = f"datasets/noise/{number}.bin"
        store.put(key, data)
        shards.append(ShardRef(key=key, num_tokens=num_tokens, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    manifest = DatasetManifest(
        name="noise", dtype="uint16", eos_id=0, vocab_size=VOCAB_SIZE, tokenizer_key="datasets/noise/tokenizer.json", shards=tuple(shards)
    )
    store.create(manifest_key("noise"), manifest_to_json(manifest))


def create_run(config: RunConfig) -> ObjectStore:
    """A store with the dataset and the run's configuration in it; returns the run's part."""
    store = open_store(config.storage)
    write_dataset(store)
    run_store = run_store_of(config)
    run_store.create("config/0001.json", codec.to_json(config))
    return run_store


def run_store_of(config: RunConfig) -> ObjectStore:
    return with_prefix(open_store(config.storage), f"runs/{config.name}/")


def timeless(record: StepRecord) -> StepRecord:
    """What a step did, which is the same whenever it runs, and however long it takes."""
    return replace(record, ended_at_s=0.0, data_wait_s=0.0, checkpoint_s=0.0, eval_s=0.0)


def proof_on(config: RunConfig) -> Proof:
    """What `braid verify --data` says."""
    manifests = load_manifests(open_store(config.storage), config.data)
    plan = load_plan(open_store(config.storage), manifests, config.data, batch_rows=BATCH_ROWS)

    def expected_digest(step: int, recorded: str) -> str:
        return planned_digest(plan, step, like=recorded)

    run_store = run_store_of(config)
    records = read_ledger(run_store)
    steps = {record.step for its_records in records.values() for record in its_records}
    store = open_store(config.storage)
    digests = token_digests(
        steps, manifests=manifests, config=config.data, batch_rows=BATCH_ROWS, store=store, elsewhere=open_beside(config.storage)
    )
    return verify(
        run=config.name,
        records=records,
        entries=open_commit_log(run_store).entries,
        expected_digest=expected_digest,
        expected_tokens=lambda step: config.stage_at(step).tokens_per_step,
        num_steps_done=config.train.num_steps,
        expected_token_digest=lambda step: digests.get(step, ""),
        row_tokens=lambda step: config.stage_at(step).seq_len,
        has_gaps=config.data.packing == "best_fit",
    )


@dataclass(slots=True)
class Worker:
    """One process, and what it said."""

    process: subprocess.Popen[bytes]
    orders: int
    reports: int
    log: Path
    said: list[Message] = field(default_factory=list)
    unread: bytes = b""

    def listen(self, timeout_s: float) -> bool:
        """Takes in what the worker has said; False once it will say no more."""
        ready, _, _ = select.select([self.reports], [], [], timeout_s)
        if not ready:
            return True
        data = os.read(self.reports, 65536)
        *lines, self.unread = (self.unread + data).split(b"\n")
        self.said += map(decode, lines)
        return bool(data)

    def last(self, kind: type[Message]) -> Any:
        return next((message for message in reversed(self.said) if isinstance(message, kind)), None)


@dataclass(slots=True)
class Attempt:
    """The worker processes of one attempt. A context manager that leaves none behind."""

    workers: list[Worker]

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for worker in self.workers:
            os.close(worker.orders)
            os.close(worker.reports)

    def kill(self) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()

    def terminate(self) -> None:
        """As a person does, or a node that is about to go."""
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """As an agent does."""
        for worker in self.workers:
            os.write(worker.orders, encode(Stop()))

    def until(self, is_enough: Callable[[Worker], bool]) -> None:
        """Listens to rank 0 until `is_enough(worker)`; fails with its log when it ends before."""
        first = self.workers[0]
        while not is_enough(first):
            if not first.listen(timeout_s=0.05):
                raise AssertionError(f"rank 0 ended before:\n{first.log.read_text()[-3000:]}")

    def finish(self) -> list[int]:
        """Listens to all until they end; their exit statuses."""
        for worker in self.workers:
            while worker.listen(timeout_s=60):
                pass
        return [worker.process.wait(timeout=30) for worker in self.workers]

    @property
    def resumed(self) -> Resumed:
        return self.workers[0].last(Resumed)

    @property
    def ended(self) -> Ended:
        return self.workers[0].last(Ended)

    @property
    def failed(self) -> Failed:
        return self.workers[0].last(Failed)

    @property
    def log(self) -> str:
        return self.workers[0].log.read_text()


Memory = Sequence[Sequence[int]]
"""By rank, the files that an agent keeps its snapshots in."""


def start_attempt(
    config: RunConfig, number: int, directory: Path, *, config_version: int = 1, module: str = WORKER, memory: Memory = ()
) -> Attempt:
    """Worker processes as an agent starts them."""
    port, ranks = free_port(), range(config.parallel.world_size)
    kept = [tuple(memory[rank]) if memory else () for rank in ranks]
    return Attempt([_start_worker(module, config, number, rank, port, directory, config_version, kept[rank]) for rank in ranks])


def run_attempt(config: RunConfig, number: int, directory: Path, *, module: str = WORKER, memory: Memory = ()) -> Attempt:
    """As `start_attempt`, until the end."""
    with start_attempt(config, number, directory, module=module, memory=memory) as attempt:
        statuses = attempt.finish()
        assert statuses == [0] * len(statuses), attempt.log
    return attempt


def _start_worker(
    module: str, config: RunConfig, attempt: int, rank: int, port: int, directory: Path, config_version: int, memory: tuple[int, ...]
) -> Worker:
    order_read, order_write = os.pipe()
    report_read, report_write = os.pipe()
    variables = {
        "BRAID_ORDER_FD": order_read, "BRAID_REPORT_FD": report_write, "BRAID_AGENT_PID": os.getpid(), "BRAID_HOME": directory / "home",
        "OMP_NUM_THREADS": 1, "BRAID_MEMORY_FDS": ",".join(map(str, memory)),
    }  # fmt: skip
    log = directory / f"a{attempt}-rank{rank}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=os.environ | {name: str(value) for name, value in variables.items()},
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(order_read, report_write, *memory),
        )
    os.close(order_read)
    os.close(report_write)
    assign = Assign(
        run=config.name, storage=config.storage, config_version=config_version, attempt=attempt, rank=rank, local_rank=0,
        world_size=config.parallel.world_size, local_world_size=1, rendezvous=Rendezvous(address="127.0.0.1", port=port),
    )  # fmt: skip
    os.write(order_write, encode(assign))
    return Worker(process=process, orders=order_write, reports=report_read, log=log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
