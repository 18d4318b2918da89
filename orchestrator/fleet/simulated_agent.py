"""An agent of the simulated fleet, and the workers that it would have."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

from orchestrator.attended import AttendedClock
from orchestrator.config import RecoveryConfig
from orchestrator.deadlines import FENCE_LOOK_EVERY_S
from orchestrator.fleet.fence import Fence
from orchestrator.fleet.simulated_training import Pace, Training
from orchestrator.fleet.transport import AgentGone, StaleController
from orchestrator.messages import AgentReport, Ended, Failed, Mode, Outcome, Phase, Rendezvous, Resumed, WorkerReport
from orchestrator.node.agent import AgentIdentity
from orchestrator.node.orders import AgentOrder, SpawnOrder, merge

Answer = Callable[[Any], None]


class World(Protocol):
    """What an agent needs of the fleet that it is in."""

    now_s: float
    pace: Pace
    spawned: list[tuple[float, str, int]]

    def on_node(self, node: str, delay_s: float, act: Callable[[], None]) -> None: ...

    def training(self, order: SpawnOrder) -> Training: ...

    def peers(self, training: Training) -> list[SimulatedAgent]: ...

    def by_chance(self, value_s: float) -> float: ...

    def new_port(self) -> int: ...

    def forget(self, agent: SimulatedAgent) -> None: ...


class SimulatedAgent:
    """Obeys as `ray_backend.node_agent` and `node.agent` do. Calls are delivered to it, and it answers each when it will."""

    def __init__(self, world: World, identity: AgentIdentity, recovery: RecoveryConfig, *, epoch: int, num_gpus: int) -> None:
        self.identity = identity
        self.num_gpus = num_gpus
        self.training: Training | None = None
        self.running: set[int] = set()
        """Local ranks of the worker processes that exist."""
        self._world = world
        self._recovery = recovery
        self._clock = AttendedClock(lambda: world.now_s, max_gap_s=2 * FENCE_LOOK_EVERY_S)
        self._fence = Fence(epoch, recovery, clock=self._clock.now)
        self._has_begun = False
        self._is_gone = False
        self._unheard: list[Callable[[], None]] = []
        """Calls that wait until the agent has begun."""
        self._calls = itertools.count()
        self._open: dict[int, Answer] = {}
        """Calls that are not answered yet."""
        self._long_polls: dict[int, int] = {}
        """Of these, the ones that wait for news, and their epoch."""
        self._order = AgentOrder(attempt=0, mode=Mode.KILL)
        self._group: SpawnOrder | None = None
        self._kept: tuple[int, int] | None = None
        """The first of the ranks whose state is in memory, and the step that it is of."""
        self._failed: dict[int, Failed | None] = {}
        """What workers said that ended by themselves; None for those that somebody killed."""
        self._outcome: Outcome | None = None
        self._is_ending = self._is_saving = False
        self._is_leaving = self._is_told = False
        self._version = 0
        self._offer = Rendezvous(address=identity.node, port=world.new_port())

    # --- calls ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._has_begun = True
        self._tell_news()
        self._end_when_nobody_is_left_to_obey()
        unheard, self._unheard = self._unheard, []
        for hear in unheard:
            hear()

    def vanish(self) -> None:
        """The agent ends at once, and its workers with it."""
        if self._is_gone:
            return
        self._is_gone = True
        self._kill_workers()
        self._world.forget(self)
        for call in list(self._open):
            self._answer(call, AgentGone("the agent has ended"))

    def deliver(self, method: str, args: tuple[Any, ...], answer: Answer) -> None:
        call = next(self._calls)
        self._open[call] = answer
        if self._is_gone:
            return self._answer(call, AgentGone("there is no such agent"))

        def hear() -> None:
            self._world.on_node(self.identity.node, self._world.pace.latency_s, lambda: self._hear(call, method, args))

        if self._has_begun:
            hear()
        else:
            self._unheard.append(hear)

    def _hear(self, call: int, method: str, args: tuple[Any, ...]) -> None:
        if self._is_gone:
            return
        try:
            getattr(self, f"_on_{method}")(call, *args)
        except StaleController as error:
            self._answer(call, error)

    def _answer(self, call: int, answer: Any) -> None:
        self._long_polls.pop(call, None)
        if call in self._open:
            self._open.pop(call)(answer)

    def _on_obey(self, call: int, epoch: int, order: AgentOrder) -> None:
        self._fence.check(epoch)
        if self._is_leaving:
            return self._answer(call, AgentGone("the agent was told to leave"))
        before, self._order = self._order, merge(self._order, order)
        if self._order != before:
            self._tell_news()
        self._see_to_it()
        self._answer(call, self._report())

    def _on_report(self, call: int, epoch: int, seen_version: int, timeout_s: float) -> None:
        self._fence.check(epoch)
        if self._version > seen_version:
            return self._answer(call, self._report())
        self._long_polls[call] = epoch
        self._world.on_node(self.identity.node, timeout_s, lambda: self._end_long_poll(call))

    def _end_long_poll(self, call: int) -> None:
        epoch = self._long_polls.get(call)
        if epoch is None:
            return
        is_stale = epoch < self._fence.epoch
        self._answer(call, StaleController(f"controller {epoch} was replaced by {self._fence.epoch}") if is_stale else self._report())

    def _on_leave(self, call: int, epoch: int) -> None:
        self._fence.check(epoch)
        self._is_leaving = True
        self._order = AgentOrder(attempt=self._order.attempt, mode=Mode.KILL)
        self._see_to_it()
        self._world.on_node(self.identity.node, 2 * self._world.pace.kill_s, lambda: self._answer(call, None))

    def _on_step_down(self, call: int, epoch: int) -> None:
        self._fence.step_down(epoch)
        self._answer(call, None)

    def _end_when_nobody_is_left_to_obey(self) -> None:
        self._clock.look()
        if self._fence.why_to_end(is_empty=not self.running) is not None:
            self.vanish()
        elif not self._is_gone:
            self._world.on_node(self.identity.node, FENCE_LOOK_EVERY_S, self._end_when_nobody_is_left_to_obey)

    def _on_read_log(self, call: int, rank: int, offset: int, limit: int) -> None:
        text = f"rank {rank} of attempt {self._order.attempt}".encode()
        self._answer(call, (text[offset : offset + limit], min(len(text), offset + limit)))

    @property
    def group_size(self) -> int:
        """Workers that were started here for the newest attempt."""
        return self._group.num_workers if self._group is not None else 0

    # --- workers -------------------------------------------------------------------------------------------------------

    def fail(self, local_rank: int, error_type: str, text: str) -> None:
        """A worker says why, and exits."""
        self._fail({local_rank}, Failed(error_type=error_type, text=text))

    def kill_worker(self, local_rank: int) -> None:
        """SIGKILL from outside."""
        self._fail({local_rank}, None)

    def fail_all(self, error_type: str, text: str) -> None:
        self._fail(set(self.running), Failed(error_type=error_type, text=text))

    def _fail(self, local_ranks: set[int], failed: Failed | None) -> None:
        gone = local_ranks & self.running
        if self.training is None or not gone or self._is_gone:
            return
        self._stop_training()
        self._failed |= dict.fromkeys(gone, failed)
        self.running -= gone
        self._tell_news()

    def tell_to_leave(self) -> None:
        self._is_told = bool(self.running)
        self._tell_news()

    def finish(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.running.clear()
        self._tell_news()

    def _see_to_it(self) -> None:
        order, node, pace = self._order, self.identity.node, self._world.pace
        is_current = self._group is not None and self._group.attempt == order.attempt
        if self.running and (not is_current or order.mode is Mode.KILL) and not self._is_ending:
            self._is_ending = True
            grace_s = self._recovery.stack_dump_grace_s if order.wants_evidence else 0.0
            self._world.on_node(node, grace_s + pace.kill_s, lambda group=self._group: self._have_killed(group))  # type: ignore[misc]
        if order.spawn is not None and order.mode is not Mode.KILL and not is_current and not self.running:
            self._spawn(order.spawn)
        elif order.mode is Mode.SAVE and is_current and self.running and not self._is_saving:
            self._is_saving = True
            self._world.on_node(node, pace.save_s, self._have_saved)

    def _spawn(self, order: SpawnOrder) -> None:
        self._group, self._failed, self._outcome = order, {}, None
        self._is_saving = self._is_told = self._is_ending = False
        self.running = set(range(order.num_workers))
        self.training = training = self._world.training(order)
        self._offer = Rendezvous(address=self.identity.node, port=self._world.new_port())
        self._world.spawned.append((self._world.now_s, self.identity.node, order.attempt))
        self._tell_news()
        start_s = self._world.by_chance(self._world.pace.worker_start_s)
        self._world.on_node(self.identity.node, start_s, lambda: self._have_started(training))

    def _have_started(self, training: Training) -> None:
        if self.training is not training or not self.running or self._is_gone:
            return
        training.num_started += len(self.running)
        if training.num_started < training.world_size:
            return
        training.begin(self._world.now_s, [peer.kept_step for peer in self._world.peers(training)])
        duration_s = (training.num_steps - training.from_step) * training.step_s
        for peer in self._world.peers(training):
            peer._tell_news()
            self._world.on_node(peer.identity.node, duration_s, lambda peer=peer: peer._have_finished(training))  # type: ignore[misc]

    def _have_finished(self, training: Training) -> None:
        if self.training is training and len(self.running) and training.step(self._world.now_s) >= training.num_steps:
            self.finish(Outcome.FINISHED)

    def _have_saved(self) -> None:
        if self.training is not None and self.running and self._order.mode is Mode.SAVE:
            self._stop_training()
            self.training.saved = self.training.step(self._world.now_s)
            self.finish(Outcome.STOPPED)

    def _have_killed(self, group: SpawnOrder | None) -> None:
        if group is not self._group:
            return  # its workers had ended by themselves, and others were started since
        self._is_ending = False
        self._kill_workers()
        self._see_to_it()
        self._tell_news()

    def _kill_workers(self) -> None:
        if self.running:
            self._stop_training()
        self.running = set()

    def _stop_training(self) -> None:
        training, group = self.training, self._group
        assert training is not None, "workers train"
        assert group is not None, "workers were started"
        training.stop(self._world.now_s)
        if training.since_s is not None:
            self._kept = group.first_rank, training.step(self._world.now_s)

    @property
    def kept_step(self) -> int | None:
        """The step whose state is in memory, if it is that of the present ranks."""
        kept, group = self._kept, self._group
        return kept[1] if kept is not None and group is not None and kept[0] == group.first_rank else None

    # --- reports -------------------------------------------------------------------------------------------------------

    def _tell_news(self) -> None:
        self._version += 1
        for call in list(self._long_polls):
            self._end_long_poll(call)

    def _report(self) -> tuple[int, AgentReport]:
        order, group = self._order, self._group
        report = AgentReport(
            node=self.identity.node,
            attempt=order.attempt,
            workers=self._workers(group) if group is not None and group.attempt == order.attempt else (),
            rendezvous=order.spawn.rendezvous if order.spawn is not None else None,
            offer=self._offer,
            is_empty=not self.running,
            gpus=tuple(f"GPU-{self.identity.node}-{index}" for index in range(self.num_gpus)),
        )
        return self._version, report

    def _workers(self, group: SpawnOrder) -> tuple[WorkerReport, ...]:
        training, now_s = self.training, self._world.now_s
        assert training is not None, "a group trains"
        step, has_begun = training.step(now_s), training.since_s is not None
        ended = Ended(outcome=self._outcome, step=step) if self._outcome is not None else None
        is_first = has_begun and group.first_rank == 0
        committed = training.step(now_s) if ended else training.committed(now_s)
        return tuple(
            WorkerReport(
                rank=group.first_rank + local_rank,
                pid=1000 + local_rank,
                phase=Phase.DONE if ended else Phase.TRAINING if has_begun else Phase.STARTING,
                step=step,
                resumed=Resumed(step=training.from_step, source=training.source) if is_first and local_rank == 0 else None,
                committed_step=committed if is_first and local_rank == 0 and committed > training.stored_step else None,
                failed=self._failed.get(local_rank),
                ended=ended,
                told_to_leave=self._is_told,
                exit_code=None if local_rank in self.running else self._exit_code(local_rank),
                killed_by_agent=local_rank not in self.running and local_rank not in self._failed and ended is None,
            )
            for local_rank in range(group.num_workers)
        )

    def _exit_code(self, local_rank: int) -> int:
        return 1 if self._failed.get(local_rank) is not None else 0 if self._outcome is not None else -9
