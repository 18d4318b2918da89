"""What the workers of one attempt in the simulated fleet do together, and how long things take there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from orchestrator.messages import Rendezvous, Source

ROUNDING = 1e-6
"""Of a step: a step that ends at this very moment has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long things take, in seconds."""

    latency_s: float = 0.001
    """From a call to its arrival, and from the answer to its own."""
    agent_start_s: float = 0.5
    worker_start_s: float = 5.0
    """From the order to the first step; a fifth more or less by chance."""
    step_s: float = 0.5
    save_s: float = 0.5
    kill_s: float = 0.05
    detection_s: float = 1.5
    """Until the cluster notices that a node is dead."""
    peers_notice_s: float = 0.04
    """Until the other workers of an attempt notice that one is gone."""


@dataclass(kw_only=True, slots=True)
class Training:
    """One attempt: its workers make steps together, once all of them are up, until one is missing."""

    run: str
    attempt: int
    rendezvous: Rendezvous
    """Workers that are sent elsewhere never meet these."""
    world_size: int
    stored_step: int
    """Of the newest checkpoint when the attempt began."""
    num_steps: int
    commit_every: int
    step_s: float
    from_step: int = 0
    source: Source = Source.STORE
    num_started: int = 0
    since_s: float | None = None
    until_s: float = float("inf")
    saved: int = 0  # its last step, once its workers have saved and ended

    def begin(self, now_s: float, kept: Collection[int | None]) -> None:
        """All are up. `kept`: steps that the agents' memory has the state of the attempt's ranks of, None where an agent has none."""
        in_memory = min((-1 if step is None else step for step in kept), default=-1)
        self.since_s, self.from_step = now_s, max(self.stored_step, in_memory)
        self.source = Source.MEMORY if in_memory >= max(1, self.stored_step) else Source.STORE

    def step(self, now_s: float) -> int:
        if self.since_s is None:
            return self.from_step
        return min(self.num_steps, self.from_step + int((min(now_s, self.until_s) - self.since_s) / self.step_s + ROUNDING))

    def committed(self, now_s: float) -> int:
        return max(self.stored_step, self.saved, self.step(now_s) // self.commit_every * self.commit_every)

    def stop(self, now_s: float) -> None:
        self.until_s = min(self.until_s, now_s)
