"""From what a cluster shows to the events that it means for a run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.control import events
from orchestrator.control.causes import Cause
from orchestrator.control.cluster import AgentSeen, Observation, last_step
from orchestrator.control.events import Event
from orchestrator.control.ladder import to_leave, turn
from orchestrator.control.placement import GOOD_STANDING, Placed, place, usable
from orchestrator.control.stalls import find_stalled
from orchestrator.control.state import ACTIVE, Fault, RunState, Stage
from orchestrator.control.summary import FailedRanks
from orchestrator.control.transition import fault_at, fault_on, save_within_s, terms_in
from orchestrator.deadlines import REPORT_EVERY_S
from orchestrator.telemetry import trouble_of

NODE_WIDE = (Cause.HARDWARE, Cause.DISK_FULL, Cause.KERNELS, Cause.KILLED, Cause.LEAVING)
"""Causes that each node has for itself; of any other, however many nodes it shows on, there is one fault."""


def events_of(state: RunState, seen: Observation, in_stage_s: float) -> Iterator[Event]:
    """The events that lead from `state` to what was seen; none when nothing happened.

    All follow from `state` as it is given: what an event changes shows in what the next look makes of it. `in_stage_s` is how long the
    controller that asks has watched the run in its present stage.
    """
    if state.terms is None or state.stage is Stage.ENDED:
        return
    agents = seen.agents_of(state.attempt)
    if state.stage in ACTIVE:  # first of all: a run that is done does not need its nodes any more
        yield from _progress(state, agents, seen)
        yield from _ended(state, agents, seen.at_s)
    yield from _faults(state, agents, seen, in_stage_s)
    if state.stage in (Stage.STARTING, Stage.RUNNING):
        yield from _told(state, agents, seen.at_s)
    if state.stage is not Stage.DRAINING:
        yield from _cordoned(state, seen, in_stage_s)
    if state.stage is Stage.DRAINING and all(_is_gone(state, agent) for agent in _placed_agents(state, seen)):
        yield events.WorkersGone(at_s=seen.at_s, attempt=state.attempt, spares=_spares(state, seen))
    if state.stage is Stage.SAVING and in_stage_s >= save_within_s(state):
        yield events.SavingOverdue(at_s=seen.at_s, attempt=state.attempt)
    if state.stage is Stage.WAITING and in_stage_s >= state.wait_s:
        yield from _next_attempt(state, seen)


# --- progress ----------------------------------------------------------------------------------------------------------


def _progress(state: RunState, agents: Sequence[AgentSeen], seen: Observation) -> Iterator[Event]:
    """Rank 0 speaks for the attempt."""
    leader = next((agent.summary.leader for agent in agents if agent.summary is not None and agent.summary.leader.rank == 0), None)
    if leader is None:
        return
    at_s, attempt = seen.at_s, state.attempt
    resumed, committed, lost = leader.resumed, leader.committed_step, leader.lost_checkpoint
    if resumed is not None and state.resumed_from is None:
        yield events.TrainingResumed(
            at_s=at_s,
            attempt=attempt,
            from_step=resumed.step,
            rejected=resumed.rejected,
            source=resumed.source,
            joining_s=resumed.joining_s,
            loading_s=resumed.loading_s,
            device=resumed.device,
        )
    if resumed is not None and state.stage is Stage.STARTING and (step := last_step(agents)) > resumed.step:
        yield events.StepReached(at_s=at_s, attempt=attempt, step=step)
    if committed is not None and committed > state.committed_step:
        yield events.CheckpointCommitted(at_s=at_s, attempt=attempt, step=committed)
    if lost is not None and all(lost.step != known.step for known in state.lost_checkpoints):
        nodes = {placed.node for rank in lost.ranks if (placed := _placed_of_rank(state, rank)) is not None}
        yield events.CheckpointLost(
            at_s=at_s,
            attempt=attempt,
            step=lost.step,
            node=nodes.pop() if len(nodes) == 1 else None,
            ranks=lost.ranks,
            text=lost.text,
            spares=_spares(state, seen),
        )


def _ended(state: RunState, agents: Sequence[AgentSeen], at_s: float) -> Iterator[Event]:
    summaries = [agent.summary for agent in agents if agent.summary is not None]
    ended = [end for summary in summaries for end in summary.ended]
    if len(ended) == terms_in(state).world_size and len({end.outcome for end in ended}) == 1:
        yield events.WorkersEnded(
            at_s=at_s,
            attempt=state.attempt,
            outcome=ended[0].outcome,
            step=max(end.step for end in ended),
            num_skipped=max(summary.num_skipped for summary in summaries),
            told=tuple(agent.node for agent in agents if agent.summary is not None and agent.summary.told_to_leave),
        )


# --- faults ------------------------------------------------------------------------------------------------------------


def _faults(state: RunState, agents: Sequence[AgentSeen], seen: Observation, in_stage_s: float) -> Iterator[Event]:
    """All that is wrong with the attempt as it shows now, in one event."""
    alive = {node.node for node in seen.nodes}
    faults = [
        fault_at(state, index, Cause.NODE_LOST, "the node left the cluster")
        for index, placed in enumerate(state.placement)
        if placed.node not in alive
    ]
    if state.stage in (*ACTIVE, Stage.DRAINING):
        faults += _of_agents(state, seen, alive)
        faults += _of_workers(state, agents)
    if state.stage is Stage.STARTING and not faults and in_stage_s > terms_in(state).recovery.start_timeout_s:
        faults += _of_starts(state, seen)
    if state.stage in ACTIVE and not faults:
        faults += _of_stalls(state, agents)
    if faults:
        first = faults[0].node
        yield events.FaultsSeen(
            at_s=seen.at_s,
            attempt=state.attempt,
            faults=tuple(faults),
            at_step=max(last_step(agents), state.resumed_from or 0),
            silent_s=max((_silent_s(agent) for agent in agents if agent.node == first), default=0.0),
        )


def _of_agents(state: RunState, seen: Observation, alive: set[str]) -> Iterator[Fault]:
    recovery = terms_in(state).recovery
    for index, agent in enumerate(_placed_agents(state, seen)):
        if agent.is_lost:
            if agent.node in alive and state.stage is not Stage.DRAINING:
                yield fault_at(state, index, Cause.AGENT_LOST, "the node's agent ended")
        elif agent.is_given_up and agent.age_s >= recovery.give_up_timeout_s:
            detail = f"the node's agent did not answer within {agent.age_s:.1f} s when its workers were to be killed"
            yield fault_at(state, index, Cause.FROZEN, detail)
        elif agent.age_s > recovery.heartbeat_timeout_s and state.stage is not Stage.DRAINING:
            yield fault_at(state, index, Cause.FROZEN, f"no word from the node's agent for {agent.age_s:.1f} s")
        if agent.report is not None and agent.report.stuck:
            pids = ", ".join(map(str, agent.report.stuck))
            detail = f"processes {pids} survive SIGKILL, stuck in the kernel, maybe holding a GPU; this node needs a look, or a reboot"
            yield fault_at(state, index, Cause.HARDWARE, detail)
        if agent.summary is not None and agent.summary.failed and agent.report is not None and (met := trouble_of(agent.report.levels)):
            yield fault_at(state, index, Cause.HARDWARE, f"{met}; its workers failed")


def _of_starts(state: RunState, seen: Observation) -> list[Fault]:
    """The first node that has no workers. Workers that were started have limits of their own: see `stalls`."""
    started = {agent.node for agent in seen.agents_of(state.attempt) if agent.summary is not None}
    idle = [placed.node for placed in state.placement if placed.node not in started]
    detail = "the node's agent started no workers; its log there says why"
    return [fault_on(state, node, Cause.AGENT_LOST, detail) for node in idle[:1]]


def _of_workers(state: RunState, agents: Sequence[AgentSeen]) -> list[Fault]:
    """What failed workers say, the same word of many told once."""
    told: dict[tuple[Cause, str | None], list[tuple[str, FailedRanks]]] = {}
    for agent in agents:
        for failed in agent.summary.failed if agent.summary is not None else ():
            told.setdefault((failed.cause, agent.node if failed.cause in NODE_WIDE else None), []).append((agent.node, failed))
    return [_told_by(state, on_nodes) for on_nodes in told.values()]


def _told_by(state: RunState, on_nodes: Sequence[tuple[str, FailedRanks]]) -> Fault:
    node, first = min(on_nodes, key=lambda one: one[1].rank)
    placed = _placed_of_rank(state, first.rank)
    return Fault(
        cause=first.cause,
        node=node,
        machine=placed.machine if placed is not None else None,
        rank=first.rank,
        detail=first.detail,
        num_ranks=sum(failed.num_ranks for _, failed in on_nodes),
        num_nodes=len(on_nodes),
    )


def _of_stalls(state: RunState, agents: Sequence[AgentSeen]) -> Iterator[Fault]:
    stall = find_stalled(agents, terms_in(state).recovery)
    if stall is None:
        return
    node = stall.agent.node if stall.agent is not None else None
    yield Fault(
        cause=stall.cause,
        node=node,
        machine=state.machine_of(node) if node else None,
        rank=stall.worker.rank if node else None,
        detail=stall.detail,
    )


def _silent_s(agent: AgentSeen) -> float:
    return agent.age_s + (agent.summary.leader.silent_s if agent.summary is not None else 0.0)


# --- nodes -------------------------------------------------------------------------------------------------------------


def _told(state: RunState, agents: Sequence[AgentSeen], at_s: float) -> Iterator[Event]:
    """Nodes on which workers got SIGTERM: what follows it, as a rule, is the end of the node."""
    told = [agent.node for agent in agents if agent.summary is not None and agent.summary.told_to_leave and not agent.summary.ended]
    if told:
        machines = ", ".join(state.machine_of(node) or node for node in told)
        yield events.NodesToLeave(
            at_s=at_s,
            attempt=state.attempt,
            nodes=tuple(told),
            text=f"{machines} told to leave (SIGTERM)",
            within_s=terms_in(state).preemption_grace_s,
        )


def _cordoned(state: RunState, seen: Observation, in_stage_s: float) -> Iterator[Event]:
    """Machines that the run holds, and that somebody, or the run itself, took out of use; while it saves, those that leave it less time."""
    standings = {placed.node: seen.standings.get(placed.machine, GOOD_STANDING) for placed in state.placement}
    cordoned = {node: standing for node, standing in standings.items() if standing.cordoned and node not in state.given_back}
    if not cordoned:
        return
    within_s = min((standing.within_s for standing in cordoned.values() if standing.within_s is not None), default=None)
    if state.stage is Stage.SAVING:
        within_s = in_stage_s + within_s if within_s is not None else None
        if within_s is None or within_s >= save_within_s(state):
            return
    machines = ", ".join(placed.machine for placed in state.placement if placed.node in cordoned)
    yield events.NodesToLeave(
        at_s=seen.at_s,
        attempt=state.attempt,
        nodes=tuple(cordoned),
        text=f"{machines} cordoned: {next(iter(cordoned.values())).cordoned}",
        within_s=within_s,
    )


def _next_attempt(state: RunState, seen: Observation) -> Iterator[Event]:
    placement = next_placement(state, seen)
    if placement:
        yield events.AttemptStarted(at_s=seen.at_s, attempt=state.attempt + 1, placement=placement)
    elif not state.wants_nodes:
        yield events.NodesShort(at_s=seen.at_s, attempt=state.attempt, text=shortage(state, seen))


def next_placement(state: RunState, seen: Observation) -> tuple[Placed, ...]:
    """The nodes that the next attempt would get now; () for none. A run that was resumed since its last attempt holds none any more."""
    terms, is_on_them = terms_in(state), state.attempt > state.resumed_after_attempt
    return place(
        seen.nodes,
        standings=seen.standings,
        leave=to_leave(state, seen.standings),
        num_nodes=terms.num_nodes,
        slots=terms.workers_per_node,
        previous=state.placement,
        held={placed.node for placed in state.placement} if is_on_them else (),
        ready={agent.node for agent in seen.agents if _is_ready(agent)},
        turn=turn(state),
    )


def _is_ready(agent: AgentSeen) -> bool:
    """It is there, and was heard of lately: one that stands still is not known for it yet."""
    return agent.report is not None and not agent.is_lost and agent.age_s <= 2 * REPORT_EVERY_S


def shortage(state: RunState, seen: Observation) -> str:
    """What is missing for the next attempt, in words."""
    terms = terms_in(state)
    num_usable = len(usable(seen.nodes, standings=seen.standings, slots=terms.workers_per_node))
    cordoned = sorted({node.machine for node in seen.nodes if seen.standings.get(node.machine, GOOD_STANDING).cordoned})
    told = f"; cordoned: {', '.join(cordoned)} (`braid nodes` says why, `braid nodes clear` gives back)" if cordoned else ""
    return f"waiting for nodes: needs {terms.num_nodes} with {terms.workers_per_node} free slots, has {num_usable}{told}"


def _spares(state: RunState, seen: Observation) -> int:
    """Usable nodes that the attempt is not on."""
    ours = {placed.node for placed in state.placement}
    return sum(node.node not in ours for node in usable(seen.nodes, standings=seen.standings, slots=terms_in(state).workers_per_node))


def _placed_agents(state: RunState, seen: Observation) -> list[AgentSeen]:
    """The agent of each node of the attempt; a lost one where none is known."""
    known = {agent.node: agent for agent in seen.agents}
    return [known.get(placed.node) or AgentSeen(node=placed.node, is_lost=True) for placed in state.placement]


def _is_gone(state: RunState, agent: AgentSeen) -> bool:
    """No worker of the attempt is left there, or none that could be reached."""
    if agent.is_lost or agent.is_given_up:
        return True
    return agent.report is not None and agent.report.attempt >= state.attempt and agent.report.is_empty


def _placed_of_rank(state: RunState, rank: int) -> Placed | None:
    index = rank // terms_in(state).workers_per_node
    return state.placement[index] if index < len(state.placement) else None
