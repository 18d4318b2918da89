"""The controller's end of one agent: what was asked of it, what it last said, and whether it still exists. Never blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.deadlines import (
    AGENT_STARTS_WITHIN_S,
    ASK_AGAIN_AFTER_S,
    GIVE_UP_AFTER_S,
    KILL_ANSWERED_WITHIN_S,
    KILL_WITHIN_S,
    REPORT_EVERY_S,
    UPLOAD_WITHIN_S,
)
from orchestrator.errors import Superseded
from orchestrator.messages import AgentReport
from orchestrator.node.orders import SpawnOrder
from orchestrator.node.tracked import grown_older
from orchestrator.ray_backend.named_actor import find_actor
from orchestrator.ray_backend.names import NAMESPACE, agent_name
from orchestrator.ray_backend.node_agent import AgentIdentity, NodeAgent, StaleController

CONCURRENCY = {"watch": 4, "command": 4, "query": 4}
log = logging.getLogger(__name__)


class AgentLink:
    """Made by `start_agent` and `adopt_agent`."""

    def __init__(self, node: str, handle: Any, *, epoch: int, adopted: bool, clock: Callable[[], float]) -> None:
        self.node = node
        self.lost = handle is None
        """The agent does not exist (any more)."""
        self._handle = handle
        self._epoch = epoch
        self._adopted = adopted
        self._clock = clock
        self._created_s = clock()
        self._stopping_s: float | None = None
        self._stopped = False
        self._dead = False
        self._ending = False
        self._version = 0
        self._report: AgentReport | None = None
        self._received_s = 0.0
        self._watch: Any = None
        self._kill: Any = None
        self._upload: Any = None
        self._spawn: Any = None
        self._order: SpawnOrder | None = None
        """What the agent has not been seen to accept yet."""
        self._ask_again_s = 0.0

    @property
    def gone(self) -> bool:
        """No worker of it is left, or none that could be reached."""
        return self.lost or self._stopped

    @property
    def ended(self) -> bool:
        """The agent itself has ended too, and gave back its GPUs, or it could not be reached."""
        return self.lost or self._dead

    @property
    def never_started(self) -> bool:
        return self.lost and self._report is None

    def report(self) -> AgentReport | None:
        """Newest report, its ages as of now."""
        if self._report is None:
            return None
        by_s = self._clock() - self._received_s
        return replace(self._report, workers=tuple(grown_older(worker, by_s) for worker in self._report.workers))

    # --- orders --------------------------------------------------------------------------------------------------------

    def choose_rendezvous(self) -> Any:
        """A reference to a Rendezvous; None when there is no agent to ask."""
        return None if self.gone else self._handle.choose_rendezvous.remote(self._epoch)

    def spawn(self, order: SpawnOrder) -> None:
        """Begins to have the workers started; repeated until the agent has the order."""
        self._order = order

    def save_and_stop(self) -> None:
        if not self.gone:
            self._handle.save_and_stop.remote(self._epoch)

    def stop(self) -> None:
        """Begins to end the workers and then the agent."""
        if self.gone or self._stopping_s is not None:
            return
        self._stopping_s = self._clock()
        self._order = None
        self._kill = self._handle.kill.remote(self._epoch, KILL_WITHIN_S)

    def fail(self, why: str) -> None:
        """Treats the agent as lost, and makes sure that it is."""
        log.warning("agent on node %s: %s", self.node, why)
        self.lost = True
        self._end_agent()

    def read_log(self, rank: int, offset: int, limit: int, timeout_s: float) -> tuple[bytes, int] | None:
        """Blocks up to `timeout_s`; None when the agent does not answer."""
        if self._handle is None:
            return None
        try:
            found: tuple[bytes, int] = ray.get(self._handle.read_log.remote(rank, offset, limit), timeout=timeout_s)
        except RayError:
            return None
        return found

    # --- watching ------------------------------------------------------------------------------------------------------

    def pending(self) -> list[Any]:
        """References whose arrival is news; asks for the next report where none is asked for."""
        if self.ended:
            return []
        if self._clock() >= self._ask_again_s:
            if self._watch is None:
                self._watch = self._handle.report.remote(self._epoch, self._version, REPORT_EVERY_S)
            if self._spawn is None and self._order is not None:
                self._spawn = self._handle.spawn.remote(self._epoch, self._order)
        return [ref for ref in (self._watch, self._kill, self._upload, self._spawn) if ref is not None]

    def collect(self, ready: set[Any]) -> None:
        """Takes in what arrived. Raises Superseded when the agent obeys a newer controller."""
        if self._spawn in ready:
            ref, self._spawn = self._spawn, None
            self._order = None if self._take(ref) else self._order
        if self._kill in ready:
            ref, self._kill = self._kill, None
            self._has_killed(self._take(ref))
        if self._upload in ready:
            self._upload = None
            self._end_agent()
        if self._watch in ready:
            ref, self._watch = self._watch, None
            self._accept(self._take(ref))
        self._check_deadlines()

    def _take(self, ref: Any) -> Any:
        """What arrived; None when it is the news that the agent ended, or that it can't be reached for now."""
        if self.ended:
            return None
        try:
            return ray.get(ref)
        except StaleController as error:
            raise Superseded(f"agent on node {self.node}: {error}") from error
        except ActorUnavailableError:
            self._ask_again_s = self._clock() + ASK_AGAIN_AFTER_S
        except RayActorError as error:
            self._has_ended(error)
        except RayError as error:
            self.fail(str(error))
        return None

    def _has_killed(self, answer: tuple[int, AgentReport] | None) -> None:
        """The next attempt need not wait until the logs are in the store."""
        self._accept(answer)
        if answer is None:
            self._end_agent()
        else:
            self._stopped = True
            self._upload = self._handle.upload_logs.remote(self._epoch, UPLOAD_WITHIN_S)

    def _has_ended(self, error: Exception) -> None:
        if self._stopping_s is not None:
            self._stopped = self._dead = True
            return
        log.warning("agent on node %s ended: %s", self.node, " ".join(str(error).split()))
        self.lost = True

    def _accept(self, answer: tuple[int, AgentReport] | None) -> None:
        if answer is None or answer[0] < self._version:
            return
        self._version, self._report = answer
        self._received_s = self._clock()
        if self._adopted and self._stopping_s is None and not self._report.workers:
            self.fail("the controller before this one started the agent, but no workers; starting over")

    def _end_agent(self) -> None:
        if self._handle is not None and not self._ending:
            self._ending = True
            ray.kill(self._handle, no_restart=True)

    def _check_deadlines(self) -> None:
        now_s = self._clock()
        if self.ended:
            return
        if self._stopping_s is None:
            if self._report is None and now_s > self._created_s + AGENT_STARTS_WITHIN_S:
                self.fail(f"did not start within {AGENT_STARTS_WITHIN_S:.0f} s; are its GPUs taken, is braid installed there?")
            return
        if now_s > self._stopping_s + KILL_ANSWERED_WITHIN_S:
            self._end_agent()
        if now_s > self._stopping_s + GIVE_UP_AFTER_S:
            log.warning("agent on node %s does not answer; going on without it, its workers' writes are fenced", self.node)
            self._stopped = self._dead = True


def start_agent(identity: AgentIdentity, *, epoch: int, num_gpus: int, clock: Callable[[], float]) -> AgentLink:
    """Begins to start the agent on its node, holding the GPUs; the one that is there already is taken."""
    remote: Any = ray.remote  # whose types know no concurrency groups
    actor = remote(concurrency_groups=CONCURRENCY)(NodeAgent).options(
        name=agent_name(identity.run, identity.attempt, identity.node),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=0,
        num_cpus=0,
        num_gpus=num_gpus,
        scheduling_strategy=NodeAffinitySchedulingStrategy(identity.node, soft=False),
    )
    return AgentLink(identity.node, actor.remote(identity, epoch), epoch=epoch, adopted=False, clock=clock)


def adopt_agent(name: str, node: str, *, epoch: int, clock: Callable[[], float]) -> AgentLink:
    """The agent that an earlier controller started; a lost one when there is none of that name."""
    return AgentLink(node, find_actor(name), epoch=epoch, adopted=True, clock=clock)
