"""An attempt without a model, of one rank or of several that are threads of this process, over a store in memory."""

from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.order.phases import Phase
from data_pipeline.order.plan import Order, Plan, Source, build_plan
from data_pipeline.store.protocol import ObjectStore
from model.parallel.config import ParallelConfig
from orchestrator.messages import CheckpointLost, Resumed
from orchestrator.records.ledger import StepRecord
from orchestrator.worker.checkpoint import Checkpointer, CheckpointTerms, Committer, build_checkpointer
from orchestrator.worker.exchange import Exchange
from orchestrator.worker.fenced import FencedAttempt, begin_attempt
from orchestrator.worker.resume import Resumer
from orchestrator.worker.snapshots import Snapshots, build_snapshots
from orchestrator.worker.witness import Witnesses
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import MODEL

DIGEST = "d" * 64
DATASET = "a" * 64
SOURCE = Source(name="noise", shard_tokens=[25])
PLAN = build_plan(order=Order(seed=1, lanes=4), sources=[SOURCE], phases=[Phase(steps=1, batch_rows=4, seq_len=1, ratios=(1,))])
"""24 samples."""
T = TypeVar("T")


def on_ranks(num_ranks: int, action: Callable[[Exchange], T]) -> list[T | BaseException]:
    """What `action` returns or raises on each of as many ranks."""
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=20))
    with futures.ThreadPoolExecutor(num_ranks) as pool:
        ranks = [pool.submit(action, Exchange(store, rank=rank, world_size=num_ranks)) for rank in range(num_ranks)]
    return [rank.exception() or rank.result() for rank in ranks]


@dataclass
class Training:
    """One rank of an attempt without a model: its state at step n is a tensor full of n."""

    store: ObjectStore
    exchange: Exchange
    attempt: FencedAttempt
    snapshots: Snapshots
    checkpointer: Checkpointer
    committed: list[int] = field(default_factory=list)
    lost: list[CheckpointLost] = field(default_factory=list)

    def save(self, *steps: int) -> None:
        for step in steps:
            self.record(step)
            self.checkpointer.save(step, state_at(step))
            self.checkpointer.wait()

    def record(self, step: int, *, loss: float = 1.0) -> None:
        if self.attempt.ledger is None:
            return
        self.attempt.ledger.append(
            StepRecord(
                step=step,
                attempt=self.attempt.number,
                loss=loss,
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
        self,
        *,
        into: dict[str, Tensor] | None = None,
        digest: str = DIGEST,
        dataset: str = DATASET,
        plan: Plan = PLAN,
        ranks_per_node: int = 1,
    ) -> tuple[Resumed, dict[str, Tensor]]:
        state = state_at(-1) if into is None else into
        resumer = Resumer(
            run="first",
            store=self.store,
            witnesses=Witnesses(exchange=self.exchange, ranks_per_node=ranks_per_node),
            attempt=self.attempt,
            training_digest=digest,
            dataset_digest=dataset,
            order_digest=plan.digest,
        )
        return resumer.load_latest(state, self.snapshots), state


def state_at(step: int) -> dict[str, Tensor]:
    return {"model.weight": torch.full((4, 3), float(step)), "optimizer.weight.step": torch.tensor(float(step))}


def begin(
    store: ObjectStore,
    exchange: Exchange,
    number: int,
    *,
    keep_latest: int = 2,
    tidy: Callable[[], None] = lambda: None,
    memory: Sequence[int] = (),
    like: Mapping[str, Tensor] | None = None,
) -> Training:
    """`like` is a state with the tensors that all of its states have."""
    attempt = begin_attempt(store, exchange, number)
    committed: list[int] = []
    lost: list[CheckpointLost] = []
    terms = CheckpointTerms(
        run="first",
        attempt=number,
        model=MODEL,
        layout=ParallelConfig(),
        training_digest=DIGEST,
        dataset_digest=DATASET,
        plan=PLAN,
        keep_latest=keep_latest,
    )
    committer = None
    if attempt.commit_log is not None and attempt.ledger is not None:
        committer = Committer(
            store,
            terms=terms,
            commit_log=attempt.commit_log,
            ledger=attempt.ledger,
            on_commit=committed.append,
            on_loss=lost.append,
            tidy=tidy,
        )
    like = state_at(-1) if like is None else like
    snapshots = build_snapshots(
        memory,
        like,
        rank=exchange.rank,
        world_size=exchange.world_size,
        attempt=number,
        terms=f"rank {exchange.rank}",
        device=torch.device("cpu"),
    )
    checkpointer = build_checkpointer(store, like, attempt=number, exchange=exchange, committer=committer, snapshots=snapshots)
    return Training(
        store=store,
        exchange=exchange,
        attempt=attempt,
        snapshots=snapshots,
        checkpointer=checkpointer,
        committed=committed,
        lost=lost,
    )


def flip_a_byte(store: MemoryStore, key: str) -> None:
    data = bytearray(store.objects[key])
    data[len(data) // 2] ^= 1
    store.objects[key] = bytes(data)


def steps_on_store(store: MemoryStore) -> set[str]:
    return {key.split("/")[1] for key in store.objects if key.startswith("checkpoints/")}
