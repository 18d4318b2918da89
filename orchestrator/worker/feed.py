"""The batches of coming steps, brought to the device while the step before them runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from data_pipeline.read.batch import TokenBatch
from data_pipeline.read.loader import Loader
from model.train.batch import Batch, build_batches
from orchestrator.config import RunConfig
from orchestrator.worker.world import World

Place = Callable[[int, TokenBatch], Sequence[Batch]]
"""Brings the batch of a step to the device; it does not wait for the copies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fed:
    """What a rank trains on in one step."""

    batch: TokenBatch
    micro_batches: Sequence[Batch]
    """The same, on the device."""
    copied: torch.cuda.Event | None
    """Comes when the copies are there; None on a CPU, which makes none."""


class Feed:
    """For one consumer, whose steps follow each other; close it when done, and before the loader.

    Its thread takes each batch from the loader one step early, and queues the copies on a stream of their own: nobody waits for them but
    the device. They are made from pinned memory, which torch takes again once they are through; and what they are made to is not taken
    again before the consumer's stream is done with it.
    """

    def __init__(self, loader: Loader, *, place: Place, device: torch.device, last_step: int) -> None:
        """Nothing behind `last_step` is read."""
        self._loader, self._place, self._device, self._last_step = loader, place, device, last_step
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="data-feed")
        self._ahead: dict[int, Future[Fed]] = {}
        """The step after the last that was asked for."""

    def batch(self, step: int) -> Fed:
        """This rank's part of `step` (the first is 1), for the current stream. What went wrong is raised at the step that needs it."""
        fed = (self._ahead.get(step) or self._executor.submit(self._fed, step)).result()
        self._ahead = {step + 1: self._executor.submit(self._fed, step + 1)} if step < self._last_step else {}
        if fed.copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(fed.copied)
            for micro_batch in fed.micro_batches:
                micro_batch.used_on(stream)
        return fed

    def _fed(self, step: int) -> Fed:
        batch = self._loader.batch(step)
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            micro_batches = self._place(step, batch)
            return Fed(batch=batch, micro_batches=micro_batches, copied=None if self._stream is None else self._stream.record_event())

    def close(self) -> None:
        """Returns when what is being read is through."""
        self._executor.shutdown(cancel_futures=True)


def micro_batches_of(batch: TokenBatch, micro_rows: int, *, config: RunConfig, world: World) -> list[Batch]:
    """A rank's rows of a step, cut for gradient accumulation, on its device."""
    return build_batches(
        tokens_BT=batch.tokens_BT,
        labels_BT=batch.labels_BT,
        offsets_P=batch.document_offsets_P if config.data.document_masking else None,
        micro_rows=micro_rows,
        mesh=world.mesh,
        device=world.device,
    )


def build_feed(loader: Loader, config: RunConfig, world: World) -> Feed:
    """What feeds the training of a rank."""

    def place(step: int, batch: TokenBatch) -> list[Batch]:
        return micro_batches_of(batch, config.stage_at(step).micro_rows, config=config, world=world)

    return Feed(loader, place=place, device=world.device, last_step=config.train.num_steps)
