"""Whom an agent obeys, and when it ends by itself because nobody is left to obey. Pure, but for the clock that it is given."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.config import RecoveryConfig
from orchestrator.fleet.transport import StaleController


class Fence:
    """Controllers are numbered; the newest that spoke is obeyed, and every older one is refused. For calls under one lock."""

    def __init__(self, epoch: int, recovery: RecoveryConfig, *, clock: Callable[[], float]) -> None:
        self.epoch = epoch
        """The newest controller that spoke."""
        self._recovery = recovery
        self._clock = clock
        self._heard_s = clock()
        self._left_s: float | None = None
        """When the newest controller stepped down; None while it controls."""

    def check(self, epoch: int) -> None:
        """Raises StaleController for a controller that was replaced."""
        if epoch < self.epoch:
            raise StaleController(f"controller {epoch} was replaced by {self.epoch}")
        if epoch > self.epoch:
            self.epoch, self._left_s = epoch, None
        self._heard_s = self._clock()

    def step_down(self, epoch: int) -> None:
        """The controller `epoch` leaves the agent to another one, which has yet to speak. Where that one has spoken, this is no news."""
        if epoch > self.epoch or (epoch == self.epoch and self._left_s is None):
            self.epoch, self._left_s = epoch, self._clock()

    def why_to_end(self, *, is_empty: bool) -> str | None:
        """Why the agent should end, its workers with it; None while it should stay. `is_empty`: no worker of it is left."""
        now_s, recovery = self._clock(), self._recovery
        if self._left_s is not None and now_s - self._left_s > recovery.orphan_timeout_s:
            return f"the controller stepped down, and no other has spoken for {recovery.orphan_timeout_s:.0f} s"
        if is_empty and now_s - self._heard_s > recovery.idle_timeout_s:
            return f"no worker is left, and no controller has spoken for {recovery.idle_timeout_s:.0f} s"
        return None
