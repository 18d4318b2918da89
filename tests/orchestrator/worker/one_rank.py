"""An attempt of one rank without a model or a process of its own, over a store in memory."""

from concurrent import futures
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.store.protocol import ObjectStore
from model.parallel.config import ParallelConfig
from orchestrator.messages import Resumed
from orchestrator.records.ledger import StepRecord
from orchestrator.worker.checkpoint import Checkpointer, CheckpointTerms, Committer, build_checkpointer
from orchestrator.worker.fenced import FencedAttempt, begin_attempt
from orchestrator.worker.resume import Resumer
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import MODEL

DIGEST = "d" * 64
DATASET = "a" * 64


@dataclass
class Training:
    """An attempt without a model: its state at step n is a tensor full of n."""

    store: ObjectStore
    group: dist.ProcessGroup
    attempt: FencedAttempt
    checkpointer: Checkpointer
    committed: list[int] = field(default_factory=list)

    def save(self, *steps: int) -> None:
        for step in steps:
            self.record(step)
            self.checkpointer.save(step, state_at(step))
            self.checkpointer.wait()

    def record(self, step: int) -> None:
        assert self.attempt.ledger is not None
        self.attempt.ledger.append(
            StepRecord(
                step=step,
                attempt=self.attempt.number,
                loss=1.0,
                grad_norm=1.0,
                tokens=64,
                samples="",
                layout=ParallelConfig(),
                deterministic=True,
                setting="",
            )
        )

    def check_after_its_end(self) -> None:
        """The first step boundary after the end of the save under way."""
        under_way = self.checkpointer._under_way
        assert under_way is not None
        futures.wait([under_way], timeout=30)
        self.checkpointer.check()

    def load(
        self, *, into: dict[str, Tensor] | None = None, digest: str = DIGEST, dataset: str = DATASET
    ) -> tuple[Resumed, dict[str, Tensor]]:
        state = state_at(-1) if into is None else into
        resumer = Resumer(store=self.store, group=self.group, attempt=self.attempt, training_digest=digest, dataset_digest=dataset)
        return resumer.load_latest(lambda: state), state


def state_at(step: int) -> dict[str, Tensor]:
    return {"model.weight": torch.full((4, 3), float(step)), "optimizer.weight.step": torch.tensor(float(step))}


def begin(store: ObjectStore, group: dist.ProcessGroup, number: int, *, keep_latest: int = 2) -> Training:
    attempt = begin_attempt(store, group, number)
    assert attempt.commit_log is not None
    assert attempt.ledger is not None
    committed: list[int] = []
    terms = CheckpointTerms(
        run="first",
        attempt=number,
        model=MODEL,
        layout=ParallelConfig(),
        training_digest=DIGEST,
        dataset_digest=DATASET,
        batch_rows=4,
        num_samples=24,
        keep_latest=keep_latest,
    )
    committer = Committer(store, terms=terms, commit_log=attempt.commit_log, ledger=attempt.ledger, on_commit=committed.append)
    checkpointer = build_checkpointer(store, attempt=number, group=group, committer=committer, device=torch.device("cpu"))
    return Training(store=store, group=group, attempt=attempt, checkpointer=checkpointer, committed=committed)


def flip_a_byte(store: MemoryStore, key: str) -> None:
    data = bytearray(store.objects[key])
    data[len(data) // 2] ^= 1
    store.objects[key] = bytes(data)


def steps_on_store(store: MemoryStore) -> set[str]:
    return {key.split("/")[1] for key in store.objects if key.startswith("checkpoints/")}
