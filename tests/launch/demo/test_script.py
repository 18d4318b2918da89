"""When the demo may hurt its run."""

from launch.demo.script import WHOLE_SCRIPT, Fault, next_fault
from tests.launch.demo.test_promises import NODE, WORKER, incident, status


def test_a_worker_is_killed_once_there_is_a_checkpoint_and_steps_after_it() -> None:
    assert next_fault(status(step=10, committed=0), []) is None
    assert next_fault(status(step=24, committed=20), []) is None, "nothing to replay yet"
    assert next_fault(status("starting"), []) is None
    assert next_fault(status(step=25, committed=20), []) is Fault.WORKER


def test_a_node_is_killed_after_the_first_recovery_and_a_further_checkpoint() -> None:
    recovered = status(step=45, committed=40, incidents=(incident(),))
    assert next_fault(status(step=45, committed=40), [WORKER]) is None, "the first fault has not been noticed yet"
    assert next_fault(status(step=45, committed=40, incidents=(incident(recovered=None),)), [WORKER]) is None
    assert next_fault(status(step=25, committed=20, incidents=(incident(),)), [WORKER]) is None, "no checkpoint since"
    assert next_fault(recovered, [WORKER]) is Fault.NODE
    assert next_fault(recovered, [WORKER, NODE]) is None


def test_every_agent_is_killed_last_and_only_where_all_is_to_be_seen() -> None:
    recovered = status(step=65, committed=62, incidents=(incident(), incident("node_lost"))) | {"step": 68}
    assert next_fault(recovered, [WORKER, NODE]) is None
    assert next_fault(recovered, [WORKER, NODE], WHOLE_SCRIPT) is Fault.AGENTS
