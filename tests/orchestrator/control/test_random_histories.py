"""Random lives of a run: whatever breaks, in any order, under controllers that die between any two entries, it never gets stuck."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.desired import desired
from orchestrator.control.events import AttemptStarted, ControllerStarted, Event, StopRequested
from orchestrator.control.history import KINDS, History, fold, open_history
from orchestrator.control.observe import events_of
from orchestrator.control.placement import Node
from orchestrator.control.state import ACTIVE, RunState, Stage
from orchestrator.control.summary import summarise
from orchestrator.messages import AgentReport, CheckpointLost, Ended, Failed, Mode, Outcome, Phase, Resumed, Source, WorkerReport
from orchestrator.records.journal import read_journal
from orchestrator.records.nodes import Standing
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.control.stories import TERMS, submitted

FAILURES = [
    Failed(error_type="DistBackendError", text="connection closed by peer"),
    Failed(error_type="AcceleratorError", text="uncorrectable ECC error"),
    Failed(error_type="RuntimeError", text="unexpected"),
    Failed(error_type="OSError", text="No space left on device"),
    Failed(error_type="StoreUnavailable", text="no answer"),
    Failed(error_type="AccessDenied", text="expired"),
    Failed(error_type="DatasetMissing", text="there is none"),
    Failed(error_type="KernelsWrong", text="0.4 off"),
]
EXITS = [-9, -6, -11, 1]
LAST_STEP = 12
PATIENT = replace(TERMS, recovery=replace(TERMS.recovery, max_restarts=4, access_timeout_s=60.0))


@dataclass
class World:
    """Machines and workers that do what is desired of them, and break at random."""

    chance: random.Random
    alive: set[str] = field(default_factory=lambda: set("abcd"))
    standings: dict[str, Standing] = field(default_factory=dict)
    attempt: int = 0
    workers: dict[str, WorkerReport] = field(default_factory=dict)
    lost_agents: set[str] = field(default_factory=set)
    mode: Mode = Mode.KILL
    committed: int = 0

    def reconcile(self, state: RunState) -> None:
        wanted = desired("r", state)
        for finding in wanted.findings:
            if finding.cordons:
                self.standings[finding.machine] = Standing(cordoned="broken")
        if wanted.mode is Mode.KILL:
            self.workers = {node: replace(one, exit_code=-9, killed_by_agent=True) for node, one in self.workers.items()}
        elif wanted.attempt > self.attempt:
            assert not any(one.exit_code is None for one in self.workers.values()), "two attempts at once"
            self.lost_agents = set()
            self.workers = {node: WorkerReport(rank=rank, pid=rank) for rank, node in enumerate(wanted.placement)}
        self.attempt, self.mode = max(self.attempt, wanted.attempt), wanted.mode

    def work(self) -> None:
        """A step of training, or of starting; every third step is committed."""
        if self.mode is Mode.KILL or any(one.exit_code is not None or one.failed for one in self.workers.values()):
            return
        for node, one in self.workers.items():
            if one.resumed is None and one.rank == 0:
                source = self.chance.choice([*Source])
                one = replace(one, resumed=Resumed(step=self.committed, source=source), step=self.committed)
            elif one.step < self.committed:
                one = replace(one, step=self.committed)
            elif self.mode is Mode.SAVE or one.step >= LAST_STEP:
                outcome = Outcome.FINISHED if one.step >= LAST_STEP else Outcome.STOPPED
                one = replace(one, ended=Ended(outcome=outcome, step=one.step))
            else:
                one = replace(one, step=one.step + 1, phase=Phase.TRAINING)
            if one.rank == 0 and one.step % 3 == 0 and one.step > self.committed:
                self.committed = one.step
                one = replace(one, committed_step=one.step)
            self.workers[node] = one

    def break_something(self) -> None:
        match self.chance.randrange(9):
            case 0 if len(self.alive) > 2:
                gone = self.chance.choice(sorted(self.alive))
                self.alive.discard(gone)
            case 1:
                self.alive = set("abcd")
            case 2 | 3 if self.workers:
                self._change(lambda one: replace(one, exit_code=self.chance.choice(EXITS)))
            case 4 | 5 if self.workers:
                failed = self.chance.choice(FAILURES)
                self._change(lambda one: replace(one, failed=failed, exit_code=1))
            case 6 if self.workers:
                self._change(lambda one: replace(one, silent_s=99.0))
            case 7 if self.workers:
                self.lost_agents.add(self.chance.choice(sorted(self.workers)))
            case 8 if self.workers:
                self._change(lambda one: replace(one, lost_checkpoint=CheckpointLost(step=one.step, ranks=(one.rank,), text="no answer")))

    def _change(self, change) -> None:
        node = self.chance.choice(sorted(self.workers))
        if self.workers[node].exit_code is None and self.mode is not Mode.KILL:
            self.workers[node] = change(self.workers[node])

    def seen(self, at_s: float) -> Observation:
        nodes = tuple(Node(node=name, machine=name.upper(), slots=1) for name in sorted(self.alive))
        return Observation(at_s=at_s, nodes=nodes, agents=tuple(map(self._agent, sorted(self.workers))), standings=dict(self.standings))

    def _agent(self, node: str) -> AgentSeen:
        worker = self.workers[node]
        report = AgentReport(node=node, attempt=self.attempt, workers=(worker,), is_empty=worker.exit_code is not None)
        is_lost = node in self.lost_agents or node not in self.alive
        return AgentSeen(node=node, report=report, summary=summarise((worker,)), is_lost=is_lost)


def live(seed: int, *, looks: int, faults: float) -> tuple[History, MemoryStore, list[tuple[RunState, Event, RunState]]]:
    """A run under controllers that may die after any entry, with faults for a while and then none."""
    chance, store = random.Random(seed), MemoryStore()
    world, history = World(chance), open_history(store, "submitter")
    history.append(submitted(PATIENT))
    transitions: list[tuple[RunState, Event, RunState]] = []
    controllers, in_stage_s = 0, 0.0

    def append(event: Event) -> None:
        nonlocal in_stage_s
        before = history.state
        if history.append(event):
            transitions.append((before, event, history.state))
        if (before.stage, before.attempt) != (history.state.stage, history.state.attempt):
            in_stage_s = 0.0

    for look in range(looks):
        if look == 0 or chance.random() < 0.05 * (look < looks // 2):
            controllers, in_stage_s = controllers + 1, 0.0
            history = open_history(store, f"controller {controllers}")
            append(ControllerStarted(at_s=chance.uniform(-1e6, 1e6), epoch=history.state.epoch + 1))
        if history.state.stage is Stage.ENDED:
            break
        world.reconcile(history.state)
        if chance.random() < faults and look < looks // 2:
            world.break_something()
        if look == looks // 2:
            world.alive = set("abcd")
        world.work()
        in_stage_s += 5.0
        for event in events_of(history.state, world.seen(chance.uniform(-1e6, 1e6)), in_stage_s):
            append(event)
            if chance.random() < 0.02:
                break  # this controller dies between two entries; the next one looks again
        if chance.random() < 0.01 * (look < looks // 2):
            append(StopRequested(at_s=0.0, now=chance.random() < 0.5))
    return history, store, transitions


@settings(max_examples=150)
@given(st.integers(min_value=0, max_value=2**32), st.floats(min_value=0.05, max_value=0.6))
def test_whatever_breaks_a_run_ends_for_a_reason_and_never_twice_decides_a_thing(seed: int, faults: float):
    history, store, transitions = live(seed, looks=600, faults=faults)
    state = history.state
    usable = 4 - len({machine for one in state.incidents for machine in one.cordons})
    assert state.stage is Stage.ENDED or (state.stage is Stage.WAITING and usable < 2), f"stuck: {state}"
    assert state.stage is not Stage.ENDED or (state.reason and state.ending is not None)
    assert fold(read_journal(store, KINDS)) == state, "reading the journal decides nothing"
    for before, event, after in transitions:
        assert before != after, "an entry that says nothing"
        if isinstance(event, AttemptStarted):
            assert (before.stage, event.attempt) == (Stage.WAITING, before.attempt + 1), "two attempts at once"
            assert len({one.node for one in event.placement}) == 2
        if after.stage is Stage.ENDED:
            assert before.stage not in ACTIVE, "workers were left behind"
        for incident in after.incidents:
            blamed = {fault.machine for fault in incident.faults}
            assert {*incident.strikes, *incident.cordons} <= blamed, "a strike without a fault"
        assert after.attempt >= before.attempt


def test_the_random_lives_are_various():
    """So that the test above is worth something: among a few hundred, every stage and most causes come up."""
    causes, endings, stages = set(), set(), set()
    for seed in range(200):
        history, _, transitions = live(seed, looks=300, faults=0.3)
        causes |= {incident.cause for incident in history.state.incidents}
        endings.add(history.state.ending)
        stages |= {after.stage for _, _, after in transitions}
    assert len(causes) >= 12
    assert len(endings) >= 3
    assert stages == set(Stage)
