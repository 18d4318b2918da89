"""Encodes batches of documents on a Ray cluster, a core each. Ray does again what a process or a node that died was at."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import ray

from data_pipeline.dataset.batches import BatchEncoder, EncodedBatch, Encoding, build_batch_encoder
from data_pipeline.errors import BuildFailed, DataError
from data_pipeline.sources.corpus import Batch
from orchestrator.ray_backend.remote_errors import cause_of

MOST_LOSSES = 3
_WINDOW = 4
"""Batches for each core that are under way, or done and waiting for one before them."""


def encode_on_ray(encoding: Encoding, batches: Iterator[Batch], *, num_workers: int = 0) -> Generator[EncodedBatch, None, None]:
    """An `Encode` with as many tasks at once, or for 0 on all cores of the cluster that this process is connected to.

    Raises BuildFailed where processes end again and again over the same batch, or the cluster is gone.
    """
    shared = ray.put(encoding)
    task: Any = ray.remote(num_cpus=1, max_retries=MOST_LOSSES - 1)(_encode)
    under_way: deque[tuple[Batch, Any]] = deque()
    told: DataError | None = None
    is_exhausted = False
    try:
        while True:
            window = num_workers or _WINDOW * max(1, int(ray.cluster_resources().get("CPU", 1)))  # nodes come and go
            while not is_exhausted and len(under_way) < window:
                try:
                    batch = next(batches, None)
                except DataError as error:  # it is told when what comes before it is done
                    told, batch = error, None
                is_exhausted = batch is None
                if batch is not None:
                    under_way.append((batch, task.remote([shared], batch)))
            if not under_way:
                break
            yield _got(*under_way.popleft())
    finally:
        for _, answer in under_way:
            ray.cancel(answer, force=True)
    if told is not None:
        raise told


def _got(batch: Batch, answer: Any) -> EncodedBatch:
    try:
        encoded: EncodedBatch = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise cause if isinstance(cause, DataError) else error from error
    except ray.exceptions.RayError as error:
        part = batch[0]
        raise BuildFailed(
            f"{part.name}, from {part.chunk.place.number} on: the cluster could not tokenize it ({cause_of(error)}); is braid installed on "
            "every node, and memory not short? The same command goes on from here"
        ) from error
    return encoded


def _encode(shared: list[Any], batch: Batch) -> EncodedBatch:
    """`shared` has a reference to the Encoding in it, which Ray resolves where it is an argument itself."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    return _encoder(shared[0]).encode(batch)


@functools.lru_cache(1)
def _encoder(encoding: Any) -> BatchEncoder:
    """Made once in each process of the cluster."""
    return build_batch_encoder(ray.get(encoding))
