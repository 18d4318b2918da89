"""What a cluster of agents makes of what is desired, on a simulated fleet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config import RecoveryConfig
from orchestrator.control.cluster import AgentSeen, Observation
from orchestrator.control.desired import Desired
from orchestrator.deadlines import POLL_S, REPORT_EVERY_S
from orchestrator.errors import Superseded
from orchestrator.fleet.cluster import MESSAGES_IN_A_LOOK, STARTS_IN_A_LOOK
from orchestrator.fleet.simulated import SimulatedFleet, SimulatedTransport
from orchestrator.fleet.simulated_agent import SimulatedAgent
from orchestrator.fleet.simulated_training import Pace
from orchestrator.fleet.transport import Ref
from orchestrator.identity import RunIdentity
from orchestrator.messages import AgentReport, MirrorPlace, Mode
from orchestrator.node.agent import AgentIdentity
from orchestrator.records.nodes import Finding
from tests.orchestrator.fleet.stories import A, B, C, Watch, agent_on, all_gone, is_gone, run_config, seen_on, wanted


def pairs(fleet: SimulatedFleet) -> list[tuple[str, int]]:
    """Which workers were started: node and attempt."""
    return [(node, attempt) for _, node, attempt in fleet.spawned]


def num_failed(seen: Observation) -> int:
    return sum(bool(agent.summary and agent.summary.failed) for agent in seen.agents)


# --- starting and ending ------------------------------------------------------------------------------------------------


def test_an_attempt_starts_on_its_nodes_and_nowhere_else():
    fleet = SimulatedFleet(num_nodes=3)

    seen = Watch(fleet).want(wanted(1, A, B)).until_trains()

    assert sorted(pairs(fleet)) == [(A, 1), (B, 1)]
    assert [agent.node for agent in seen.agents] == [A, B]
    assert [one.worker.rank for one in seen.workers_of(1)] == [0, 1, 2, 3]
    assert [(node.node, node.machine, node.slots) for node in seen.nodes] == [
        (A, "machine-00000", 2),
        (B, "machine-00001", 2),
        (C, "machine-00002", 2),
    ]


def test_many_agents_are_started_by_and_by_and_none_counts_as_lost_before_its_turn():
    """An order to start one takes Ray milliseconds: all in one look, and the controller is blind for seconds."""
    num_nodes = 2 * STARTS_IN_A_LOOK + 1
    fleet = SimulatedFleet(num_nodes=num_nodes)
    watch = Watch(fleet, config=run_config(num_nodes=num_nodes)).want(wanted(1, *sorted(fleet.nodes)))

    first = watch.look()
    started = len(fleet.agents)
    seen = watch.until_trains()

    assert started == STARTS_IN_A_LOOK
    assert [agent.node for agent in first.agents] == sorted(fleet.nodes)
    assert not any(agent.is_lost for agent in first.agents)
    assert [agent.node for agent in seen.agents] == sorted(fleet.nodes)
    assert sorted(pairs(fleet)) == [(node, 1) for node in sorted(fleet.nodes)]


def test_a_look_stays_short_where_all_speak_at_once_and_what_is_left_is_heard_without_a_wait():
    num_nodes = MESSAGES_IN_A_LOOK + 1
    fleet = SimulatedFleet(num_nodes=num_nodes)
    watch = Watch(fleet, config=run_config(num_nodes=num_nodes)).want(wanted(1, *sorted(fleet.nodes)))
    watch.until_trains()
    watch.watch_for(10.0)
    for agent in list(fleet.agents.values()):
        agent.fail_all("DistBackendError", "connection closed by peer")

    first, since_s = watch.look(), fleet.now_s
    watch.until(lambda seen: num_failed(seen) == num_nodes)

    assert 0 < num_failed(first) <= MESSAGES_IN_A_LOOK
    assert fleet.now_s - since_s < POLL_S


def test_asking_for_the_same_again_changes_nothing():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()

    watch.watch_for(60.0)

    assert sorted(pairs(fleet)) == [(A, 1), (B, 1)]


def test_between_attempts_agents_stay_and_the_next_one_starts_in_them():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    before = [agent_on(fleet, A), agent_on(fleet, B)]

    watch.want_mode(Mode.KILL).until(all_gone(1))
    watch.want(wanted(2, A, B)).until_trains()

    assert [agent_on(fleet, A), agent_on(fleet, B)] == before
    assert sorted(pairs(fleet)) == [(A, 1), (A, 2), (B, 1), (B, 2)]
    assert len({training.rendezvous for training in fleet.trainings}) == 2


def test_two_attempts_are_never_in_an_agent_at_once():
    """Not even where a controller is in a hurry: the agent ends the older one first."""
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    watch.watch_for(10.0)

    watch.want(wanted(2, A, B)).until_trains()

    first, second = fleet.trainings
    began = [at_s for at_s, _, attempt in fleet.spawned if attempt == 2]
    assert first.until_s <= min(began)
    assert second.from_step == first.committed(fleet.now_s) > 0


def test_the_gpus_of_each_machine_are_told_once_by_whatever_attempt():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    watch.watch_for(10.0)

    watch.want(wanted(2, A, B)).until_trains()

    machines = {node.node: node.machine for node in watch.look().nodes}
    assert sorted(watch.registry.gpus()) == sorted((machines[node], (f"GPU-{node}-0", f"GPU-{node}-1")) for node in (A, B))


def test_a_node_that_is_not_held_any_more_gives_its_gpus_back():
    fleet = SimulatedFleet(num_nodes=3)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    watch.want_mode(Mode.KILL).until(all_gone(1))

    watch.want(wanted(2, A, C)).until_trains()
    seen = watch.until(lambda seen: [agent.node for agent in seen.agents] == [A, C])

    assert agent_on(fleet, B) is None
    assert [node.slots for node in seen.nodes] == [2, 2, 2]


def test_a_node_whose_gpus_do_not_come_back_is_no_place_after_a_while():
    """Another run takes them the moment that they are free."""
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(gpu_release_timeout_s=20.0)).want(wanted(1, A, B))
    watch.until_trains()
    watch.want(wanted(1, A, mode=Mode.KILL)).until(lambda seen: [agent.node for agent in seen.agents] == [A])
    identity = AgentIdentity(run=RunIdentity(name="another"), node=B, storage=run_config().storage)
    SimulatedTransport(fleet).start_agent("another", identity, RecoveryConfig(), epoch=1, num_gpus=fleet.gpus_per_node)

    assert [node.slots for node in watch.watch_for(18.0).nodes] == [2, 2]
    assert [node.slots for node in watch.watch_for(4.0).nodes] == [2, 0]


def test_a_node_that_is_wanted_again_while_its_agent_leaves_gets_another_and_is_never_without_one():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    before = agent_on(fleet, B)

    watch.want(wanted(1, A, mode=Mode.KILL)).look()
    watch.want(wanted(2, A, B))
    looks = [watch.look() for _ in range(20)]
    watch.until_trains()

    assert not any(seen_on(seen, node).is_lost for seen in looks for node in (A, B))
    assert agent_on(fleet, B) is not before
    assert pairs(fleet).count((B, 2)) == 1


def test_workers_that_are_told_to_save_do_so_and_end():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()

    seen = watch.want_mode(Mode.SAVE).until(lambda seen: all(agent.summary and agent.summary.ended for agent in seen.agents))

    assert [len(agent.summary.ended) for agent in seen.agents if agent.summary] == [2, 2]


def test_closing_leaves_nothing_of_the_run_not_even_what_nobody_knew_of():
    fleet = SimulatedFleet(num_nodes=3)
    Watch(fleet).want(wanted(1, C)).until_trains()
    second = Watch(fleet, epoch=2, desired=Desired(held=(C,), attempt=1, mode=Mode.KILL, placement=(C,)))
    fleet.pause_node(C)

    second.cluster.close()

    assert fleet.agents == {}


def test_findings_are_recorded_once_for_each_change():
    watch = Watch(SimulatedFleet(num_nodes=1))
    finding = Finding(at_s=0.0, machine="m", run="r", attempt=1, cause="hardware", detail="", strikes=1)

    for _ in range(3):
        watch.want(Desired(attempt=1, findings=(finding,))).look()

    assert watch.registry.findings() == [finding]


# --- what breaks --------------------------------------------------------------------------------------------------------


def test_a_lost_node_shows_with_the_last_word_of_its_agent():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()

    fleet.kill_node(B)
    seen = watch.until(lambda seen: seen_on(seen, B).is_lost)

    assert seen_on(seen, B).summary is not None
    assert [node.node for node in watch.watch_for(2.0).nodes] == [A]


def test_an_agent_that_was_lost_stays_so_for_its_attempt_and_is_started_anew_for_the_next():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()

    fleet.kill_agent(B)
    watch.until(lambda seen: seen_on(seen, B).is_lost)
    seen = watch.want_mode(Mode.KILL).watch_for(30.0)
    assert seen_on(seen, B).is_lost
    assert agent_on(fleet, B) is None

    watch.want(wanted(2, A, B)).until_trains()

    assert pairs(fleet)[-2:] == [(A, 2), (B, 2)]


def test_an_agent_for_which_a_node_has_no_room_is_lost_after_a_while_and_its_node_no_place():
    fleet = SimulatedFleet(num_nodes=2)
    fleet.nodes[B].is_full = True
    watch = Watch(fleet, config=run_config(agent_timeout_s=20.0)).want(wanted(1, A, B))

    assert not seen_on(watch.watch_for(19.0), B).is_lost
    seen = watch.watch_for(2.0)

    assert seen_on(seen, B).is_lost
    assert pairs(fleet) == [(A, 1)]


def test_a_node_that_does_not_confirm_a_kill_is_given_up_and_its_agent_ended_before_the_next_attempt():
    fleet = SimulatedFleet(num_nodes=3)
    watch = Watch(fleet, config=run_config(give_up_timeout_s=8.0)).want(wanted(1, A, B))
    watch.until_trains()
    fleet.pause_node(B)

    seen = watch.want_mode(Mode.KILL).watch_for(7.0)
    assert not seen_on(seen, B).is_given_up
    seen = watch.watch_for(2.0)
    assert seen_on(seen, B).is_given_up
    assert not seen_on(seen, A).is_given_up

    watch.want(wanted(2, A, C)).until_trains()
    assert agent_on(fleet, B) is None


def test_workers_that_take_long_to_die_are_waited_for_while_their_agent_answers():
    """The kernel tears down a GPU's memory for seconds before a process is gone."""
    fleet = SimulatedFleet(num_nodes=2, pace=Pace(kill_s=20.0))
    watch = Watch(fleet, config=run_config(give_up_timeout_s=8.0, kill_timeout_s=30.0)).want(wanted(1, A, B))
    watch.until_trains()

    seen = watch.want_mode(Mode.KILL).watch_for(19.0)
    assert not any(agent.is_given_up or (agent.report and agent.report.is_empty) for agent in seen.agents)
    watch.until(all_gone(1))
    assert not any(agent.is_given_up for agent in watch.look().agents)


def test_workers_that_hang_get_the_time_to_write_down_their_stacks_before_they_are_killed():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(stack_dump_grace_s=5.0)).want(wanted(1, A, B))
    watch.until_trains()
    watch.want(replace(watch.desired, mode=Mode.KILL, may_start=False, wants_evidence=True))

    assert not any(is_gone(agent, 1) for agent in watch.watch_for(4.5).agents)
    assert all_gone(1)(watch.watch_for(1.0))


def test_an_agent_that_answers_is_given_up_too_when_its_workers_can_not_be_killed():
    fleet = SimulatedFleet(num_nodes=2, pace=Pace(kill_s=1000.0))
    watch = Watch(fleet, config=run_config(give_up_timeout_s=8.0, kill_timeout_s=30.0)).want(wanted(1, A, B))
    watch.until_trains()

    assert not any(agent.is_given_up for agent in watch.want_mode(Mode.KILL).watch_for(37.0).agents)
    assert all(agent.is_given_up for agent in watch.watch_for(2.0).agents)


def test_a_node_counts_as_empty_only_by_a_word_that_came_after_the_order():
    """Its newest report says empty, since its workers had not been started yet when it was made."""
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until(lambda seen: seen_on(seen, A).report is not None)
    fleet.nodes[B].answers_late_by_s = 3.0
    watch.until(lambda seen: bool(fleet.spawned))

    seen = watch.want_mode(Mode.KILL).look()
    assert not any(agent.report and agent.report.is_empty for agent in seen.agents)

    watch.until(all_gone(1))
    assert [agent.running for agent in fleet.agents.values()] == [set(), set()]


def test_a_look_ends_although_answers_never_cease():
    class BusyTransport(SimulatedTransport):
        """There is always an answer without news by the time that the one before was taken in."""

        waits = 0

        def wait(self, timeout_s: float, limit: int) -> list[Ref]:
            arrived = super().wait(timeout_s, limit)
            self.waits += 1
            assert self.waits < 1000, "a look does not end"
            return arrived or super().wait(2 * REPORT_EVERY_S, limit)

    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, transport=BusyTransport(fleet)).want(wanted(1, A, B))
    watch.until_trains()
    watch.look()


def test_late_answers_change_nothing_but_when_things_happen():
    fleet = SimulatedFleet(num_nodes=2)
    for node in fleet.nodes.values():
        node.answers_late_by_s = 2.5
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()

    watch.want_mode(Mode.KILL).until(all_gone(1))
    watch.want(wanted(2, A, B)).until_trains()

    assert sorted(pairs(fleet)) == [(A, 1), (A, 2), (B, 1), (B, 2)]


def test_reports_are_young_enough_to_tell_whether_a_worker_beats():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(heartbeat_timeout_s=1.0)).want(wanted(1, A, B))
    watch.until_trains()

    ages_s = [agent.age_s for _ in range(50) for agent in watch.look().agents]

    assert max(ages_s) < 0.5


def test_the_pause_of_the_controller_is_charged_to_nobody():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    before = watch.watch_for(10.0)

    fleet.let_pass(600.0)
    after = watch.look()

    assert max(agent.age_s for agent in after.agents) < max(agent.age_s for agent in before.agents) + 1.5


def test_a_controller_that_paused_while_workers_were_to_go_gives_no_node_up():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    watch.want_mode(Mode.KILL).cluster.reconcile(watch.desired)

    fleet.let_pass(600.0)
    seen = watch.until(all_gone(1))

    assert not any(agent.is_given_up for agent in seen.agents)


# --- controllers come and go --------------------------------------------------------------------------------------------


def test_a_successor_finds_the_workers_where_they_are():
    fleet = SimulatedFleet(num_nodes=2)
    Watch(fleet).want(wanted(1, A, B)).until_trains()

    second = Watch(fleet, epoch=2, desired=wanted(1, A, B, may_start=False))
    seen = second.until_trains()

    assert sorted(pairs(fleet)) == [(A, 1), (B, 1)]
    assert not any(agent.is_lost for agent in seen.agents)


@pytest.mark.parametrize("looks", range(12))
def test_a_successor_finishes_a_start_wherever_the_first_controller_was_lost(looks: int):
    """Before any agent was asked, before they spoke, while the orders were on their way, or after."""
    fleet = SimulatedFleet(num_nodes=3)
    first = Watch(fleet).want(wanted(1, A, B, C))
    for _ in range(looks):
        first.look()

    Watch(fleet, epoch=2, desired=wanted(1, A, B, C)).until_trains()

    assert sorted(pairs(fleet)) == [(A, 1), (B, 1), (C, 1)]


def test_a_successor_lets_workers_meet_where_the_first_ones_wait_already():
    fleet = SimulatedFleet(num_nodes=2)
    first = Watch(fleet).want(wanted(1, A, B))
    first.until(lambda seen: len(seen.agents_of(0)) == 2)
    fleet.pause_node(A)
    first.watch_for(1.0)
    assert pairs(fleet) == [(B, 1)]

    second = Watch(fleet, epoch=2, desired=wanted(1, A, B))
    second.watch_for(1.0)
    fleet.resume_node(A)
    seen = second.until_trains()

    [rendezvous] = {agent.report.rendezvous for agent in seen.agents if agent.report}
    assert rendezvous is not None
    assert rendezvous.address == A


def test_a_successor_hears_all_that_was_begun_before_it_says_where_workers_meet():
    """The first node has another agent now, which offers another place; the second one knows the first place, and is late to say so."""
    fleet = SimulatedFleet(num_nodes=2)
    first = Watch(fleet).want(wanted(1, A, B))
    first.until(lambda seen: pairs(fleet) == [(A, 1), (B, 1)])
    fleet.kill_agent(A)
    fleet.nodes[B].answers_late_by_s = 3.0

    Watch(fleet, epoch=2, desired=wanted(1, A, B)).until(lambda seen: len(fleet.spawned) == 3)

    assert {training.rendezvous.address for training in fleet.trainings} == {A}
    assert len(fleet.trainings) == 1


def test_a_node_that_is_empty_stays_so_when_the_order_is_worded_anew():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()
    watch.want_mode(Mode.KILL).until(all_gone(1))

    watch.want(replace(watch.desired, wants_evidence=True))

    assert all(all_gone(1)(watch.look()) for _ in range(10))


def test_an_agent_that_an_earlier_controller_told_to_leave_is_replaced_before_it_is_needed():
    """The run ended, its controller died while the agents left, and a person resumed the run."""
    fleet = SimulatedFleet(num_nodes=2)
    first = Watch(fleet).want(wanted(1, A, B))
    first.until_trains()
    first.want_mode(Mode.KILL).until(all_gone(1))
    first.cluster.reconcile(Desired(attempt=1))
    first.cluster.poll(timeout_s=0.01)
    leaving = agent_on(fleet, A)

    between = wanted(1, A, B, mode=Mode.KILL, may_start=False)
    second = Watch(fleet, epoch=2, desired=between)
    second.until(all_gone(1))
    second.want(wanted(2, A, B)).until_trains()

    assert leaving is not None
    assert agent_on(fleet, A) is not leaving


def test_where_workers_were_started_for_certain_a_missing_agent_is_lost():
    fleet = SimulatedFleet(num_nodes=2)
    Watch(fleet).want(wanted(1, A, B)).until_trains()
    fleet.kill_agent(B)

    seen = Watch(fleet, epoch=2, desired=wanted(1, A, B, may_start=False)).watch_for(5.0)

    assert seen_on(seen, B).is_lost
    assert agent_on(fleet, B) is None


def test_a_controller_whose_agents_obey_a_newer_one_steps_down_and_ends_none_of_them():
    fleet = SimulatedFleet(num_nodes=2)
    first = Watch(fleet).want(wanted(1, A, B))
    first.until_trains()
    second = Watch(fleet, epoch=2, desired=wanted(1, A, B, may_start=False))
    second.until_trains()

    with pytest.raises(Superseded, match="controller 1 was replaced by 2"):
        first.want_mode(Mode.KILL).watch_for(5.0)
    first.cluster.step_down()
    second.watch_for(120.0)

    assert second.trains(second.look())
    assert sorted(pairs(fleet)) == [(A, 1), (B, 1)]


def test_a_controller_that_wakes_after_its_successor_began_learns_it_before_any_deadline_passes():
    """It had given its agents an order to kill, and was stopped before they could confirm it."""
    fleet = SimulatedFleet(num_nodes=2)
    first = Watch(fleet).want(wanted(1, A, B))
    first.until_trains()
    second = Watch(fleet, epoch=2, desired=wanted(1, A, B, may_start=False))
    second.until_trains()

    with pytest.raises(Superseded):
        first.want(Desired(attempt=1)).watch_for(60.0)

    assert second.trains(second.look())


def test_agents_end_when_their_controller_stepped_down_and_no_other_speaks():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(orphan_timeout_s=30.0)).want(wanted(1, A, B))
    watch.until_trains()

    watch.cluster.step_down()
    fleet.let_pass(29.0)
    assert len(fleet.agents) == 2
    fleet.let_pass(2.0)

    assert fleet.agents == {}


def test_agents_without_workers_end_when_no_controller_speaks():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(idle_timeout_s=120.0)).want(wanted(1, A, B))
    watch.until_trains()
    watch.want_mode(Mode.KILL).until(all_gone(1))

    watch.watch_for(300.0)
    fleet.let_pass(118.0)
    assert len(fleet.agents) == 2
    fleet.let_pass(4.0)

    assert fleet.agents == {}


def test_agents_that_train_stay_however_long_no_controller_speaks():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(idle_timeout_s=120.0)).want(wanted(1, A, B))
    watch.until_trains()

    fleet.let_pass(1200.0)

    assert watch.trains(watch.look())


def test_a_controller_that_steps_down_waits_a_while_for_a_node_that_stands_still():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(step_down_timeout_s=7.0)).want(wanted(1, A, B))
    watch.until_trains()
    fleet.pause_node(B)
    before_s = fleet.now_s

    watch.cluster.step_down()

    assert fleet.now_s - before_s == pytest.approx(7.0)


def test_agents_stay_when_another_controller_speaks_in_time():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet, config=run_config(orphan_timeout_s=30.0)).want(wanted(1, A, B))
    watch.until_trains()

    watch.cluster.step_down()
    second = Watch(fleet, epoch=2, desired=wanted(1, A, B, may_start=False))
    second.watch_for(60.0)

    assert second.trains(second.look())


def test_a_log_is_read_where_its_rank_is():
    fleet = SimulatedFleet(num_nodes=2)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()

    assert watch.cluster.read_log(3, 1, 0, 100, timeout_s=5.0) == (b"rank 3 of attempt 1", 19)
    assert watch.cluster.read_log(4, 1, 0, 100, timeout_s=5.0) is None
    assert watch.cluster.read_log(0, 2, 0, 100, timeout_s=5.0) is None
    fleet.pause_node(B)
    assert watch.cluster.read_log(3, 1, 0, 100, timeout_s=5.0) is None


@pytest.mark.parametrize("ids", [("5eed", "f00d"), ("5eed", ""), ("", "5eed")])
def test_the_agents_of_a_run_of_the_same_name_in_another_store_are_left_alone(ids: tuple[str, str]):
    fleet = SimulatedFleet(num_nodes=2)
    first = Watch(fleet, run_id=ids[0]).want(wanted(1, A))
    first.until_trains()

    second = Watch(fleet, epoch=2, desired=Desired(), run_id=ids[1])
    assert second.look().agents == ()
    second.cluster.close()

    assert first.trains(first.watch_for(10.0))


# --- copies of snapshots --------------------------------------------------------------------------------------------------


@pytest.fixture
def with_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that keep copies of each other's snapshots."""
    report = SimulatedAgent._report

    def report_with_mirror(self: SimulatedAgent) -> tuple[int, AgentReport]:
        version, told = report(self)
        return version, replace(told, mirror=MirrorPlace(address=told.node, port=1, token=""))

    monkeypatch.setattr(SimulatedAgent, "_report", report_with_mirror)


def buddies(fleet: SimulatedFleet, *nodes: str) -> list[str | None]:
    agents = [agent for node in nodes if (agent := agent_on(fleet, node)) is not None]
    return [agent._order.buddy.address if agent._order.buddy else None for agent in agents]


def has_workers(seen: AgentSeen) -> bool:
    return seen.report is not None and bool(seen.report.workers)


@pytest.mark.usefixtures("with_mirrors")
def test_agents_learn_where_copies_are_once_those_who_keep_them_have_spoken():
    fleet = SimulatedFleet(num_nodes=3)
    fleet.nodes[B].answers_late_by_s = 3.0
    watch = Watch(fleet).want(wanted(1, A, B))

    watch.until(lambda seen: has_workers(seen_on(seen, A)))
    assert buddies(fleet, A) == [None]

    watch.until_trains()
    assert buddies(fleet, A, B) == [B, A]


@pytest.mark.usefixtures("with_mirrors")
def test_an_agent_learns_where_its_copies_are_before_others_have_spoken():
    fleet = SimulatedFleet(num_nodes=3)
    fleet.nodes[C].answers_late_by_s = 3.0
    watch = Watch(fleet).want(wanted(1, A, B, C))

    watch.until(lambda seen: has_workers(seen_on(seen, A)))
    assert buddies(fleet, A, B) == [B, None]

    watch.until_trains()
    assert buddies(fleet, A, B, C) == [B, C, A]


@pytest.mark.usefixtures("with_mirrors")
def test_a_new_node_and_those_that_stay_learn_of_each_other():
    fleet = SimulatedFleet(num_nodes=3)
    watch = Watch(fleet).want(wanted(1, A, B))
    watch.until_trains()

    watch.want(wanted(2, C, B)).until_trains()

    assert buddies(fleet, C, B) == [B, C]
