"""A controller on a simulated fleet, from the first attempt to the end of the run: what breaks, and how the run goes on."""

from __future__ import annotations

import pytest

from orchestrator.control.causes import Cause
from orchestrator.control.events import ControllerStarted, RunSubmitted
from orchestrator.control.history import new_history, open_history
from orchestrator.control.state import Ending, Stage, terms_of
from orchestrator.errors import Superseded
from orchestrator.fleet.simulated import SimulatedFleet, SimulatedTransport
from orchestrator.fleet.simulated_training import Pace
from orchestrator.fleet.transport import Ref
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.fleet.stories import A, B, C, controller_of, nodes_of, played, run_config

NUM_STEPS = 200


@pytest.fixture
def fleet() -> SimulatedFleet:
    return SimulatedFleet(num_nodes=3, num_steps=NUM_STEPS)


def test_a_run_that_nothing_happens_to_finishes_in_one_attempt(fleet: SimulatedFleet):
    end = played(fleet)

    assert (end.ending, end.attempt, end.incidents, end.committed_step) == (Ending.FINISHED, 1, (), NUM_STEPS)


def test_a_lost_node_is_named_and_replaced_by_the_spare(fleet: SimulatedFleet):
    end = played(fleet, (30.0, lambda: fleet.kill_node(B)))

    [incident] = end.incidents
    assert (incident.cause, incident.node) == (Cause.NODE_LOST, B)
    assert (end.ending, end.attempt, nodes_of(end)) == (Ending.FINISHED, 2, [A, C])
    assert incident.resumed_from_step is not None
    assert incident.resumed_from_step > 0


def test_a_node_that_got_its_notice_is_left_with_all_that_was_trained(fleet: SimulatedFleet):
    """Also in the middle between two checkpoints: the whole run saves, and no step is trained again."""
    end = played(fleet, (32.2, lambda: fleet.warn_node(B, grace_s=10.0)))

    [incident] = end.incidents
    assert (incident.cause, incident.node, incident.steps_replayed) == (Cause.LEAVING, B, 0)
    assert (end.ending, end.attempt, nodes_of(end)) == (Ending.FINISHED, 2, [A, C])
    before, after = fleet.trainings
    assert after.from_step == before.step(fleet.now_s) == before.saved
    assert after.from_step % fleet.commit_every


def test_a_node_that_is_killed_before_the_run_has_saved_costs_what_was_trained_since_the_last_checkpoint(fleet: SimulatedFleet):
    end = played(fleet, (32.2, lambda: fleet.warn_node(B, grace_s=0.1)))

    assert (end.ending, end.attempt, nodes_of(end)) == (Ending.FINISHED, 2, [A, C])
    assert fleet.trainings[1].from_step % fleet.commit_every == 0


def test_a_node_that_stands_still_is_left_and_its_late_workers_are_ended(fleet: SimulatedFleet):
    """It wakes when the run is long elsewhere."""
    end = played(
        fleet,
        (30.0, lambda: fleet.pause_node(B)),
        (80.0, lambda: fleet.resume_node(B)),
        config=run_config(heartbeat_timeout_s=10.0),
    )

    [incident] = end.incidents
    assert (incident.cause, incident.node) == (Cause.FROZEN, B)
    assert (end.ending, nodes_of(end)) == (Ending.FINISHED, [A, C])


def test_a_broken_gpu_takes_the_run_elsewhere_whatever_its_peers_say_after_it(fleet: SimulatedFleet):
    end = played(fleet, (30.0, lambda: fleet.fail_worker(A, 1, "AcceleratorError", "CUDA error: uncorrectable ECC error encountered")))

    [incident] = end.incidents
    assert (incident.cause, incident.node) == (Cause.HARDWARE, A)
    assert (end.ending, end.attempt, A in nodes_of(end)) == (Ending.FINISHED, 2, False)


def test_an_agent_that_ends_is_started_again(fleet: SimulatedFleet):
    end = played(fleet, (30.0, lambda: fleet.kill_agent(B)))

    [incident] = end.incidents
    assert (incident.cause, incident.node) == (Cause.AGENT_LOST, B)
    assert (end.ending, end.attempt) == (Ending.FINISHED, 2)


def test_a_node_without_room_is_passed_over(fleet: SimulatedFleet):
    fleet.nodes[A].is_full = True

    end = played(fleet)

    assert (end.ending, nodes_of(end)) == (Ending.FINISHED, [C, B])


def test_a_controller_that_stands_still_for_minutes_blames_nobody(fleet: SimulatedFleet):
    """Its process does, or its machine; everything else goes on."""
    paused_at_s: list[float] = []

    class PausingTransport(SimulatedTransport):
        def wait(self, timeout_s: float, limit: int) -> list[Ref]:
            if fleet.now_s > 30.0 and not paused_at_s:
                paused_at_s.append(fleet.now_s)
                fleet.let_pass(60.0)
                return []  # what came meanwhile has yet to be read
            return super().wait(timeout_s, limit)

    end = played(fleet, config=run_config(heartbeat_timeout_s=4.0), transport=PausingTransport(fleet))

    assert paused_at_s
    assert (end.ending, end.attempt, end.incidents) == (Ending.FINISHED, 1, ())


def test_a_dead_node_that_the_cluster_is_slow_to_notice_is_left_since_it_alone_confirms_nothing(fleet: SimulatedFleet):
    """All that survivors say is that a peer is gone."""
    fleet.pace = Pace(detection_s=60.0)

    end = played(fleet, (30.0, lambda: fleet.kill_node(B)))

    [incident] = end.incidents
    assert (incident.cause, incident.node, incident.strikes) == (Cause.FROZEN, B, {"machine-00001": 2})
    assert (end.ending, end.attempt, nodes_of(end)) == (Ending.FINISHED, 2, [A, C])


@pytest.mark.parametrize(("paused_at_s", "cause"), [(0.55, Cause.AGENT_LOST), (0.705, Cause.FROZEN), (3.0, Cause.FROZEN)])
def test_a_node_that_stands_still_before_its_workers_train_is_left(fleet: SimulatedFleet, paused_at_s: float, cause: Cause):
    """Before its agent's first word, before that hears of the attempt, or while its workers start. The cluster never notices."""
    end = played(fleet, (paused_at_s, lambda: fleet.pause_node(B)), config=run_config(heartbeat_timeout_s=10.0))

    [incident] = end.incidents
    assert (incident.cause, incident.node) == (cause, B)
    assert (end.ending, nodes_of(end)) == (Ending.FINISHED, [A, C])


def test_a_run_that_another_cluster_took_while_a_controller_began_here_leaves_nothing_running_here(fleet: SimulatedFleet):
    """Of the controller before it only the agents are left, which train: nobody else will ever tell them."""
    store = MemoryStore()
    new_history(store).append(RunSubmitted(at_s=0.0, terms=terms_of(run_config(), 1)))

    first = controller_of(fleet, store)
    first._open()
    while first.view.state.stage is not Stage.RUNNING:
        first._tick()
    second = controller_of(fleet, store)
    open_history(store).append(ControllerStarted(at_s=0.0, epoch=2))
    with pytest.raises(Superseded):
        second.run()
    assert len(fleet.agents) == 2

    fleet.let_pass(run_config().recovery.orphan_timeout_s + 2.0)

    assert fleet.agents == {}


@pytest.mark.parametrize("bad", [A, B])
def test_a_node_whose_links_break_without_a_word_of_which_ends_no_run_while_another_is_free(fleet: SimulatedFleet, bad: str):
    """Everybody loses a peer, those on the bad node too, as soon as they train."""

    def break_links() -> None:
        for agent in fleet.agents_on(bad):
            if (training := agent.training) is not None and training.since_s is not None:
                for peer in fleet.peers(training):
                    peer.fail_all("DistBackendError", "NCCL error: remote process exited or there was a network error")

    end = played(fleet, *((at_s, break_links) for at_s in range(5, 300, 2)))

    assert {(incident.cause, *incident.strikes) for incident in end.incidents} == {(Cause.PEER_LOST,)}
    assert (end.ending, bad in nodes_of(end), end.attempt <= 4) == (Ending.FINISHED, False, True)
