"""The proof of a run that went back behind a checkpoint, and of one that came back to it."""

from orchestrator.records.commit_log import Doubt, Entry, Fence, Reject, Snapshot, Trust
from orchestrator.records.ledger import StepRecord
from orchestrator.verify import committed_step
from tests.orchestrator.test_verify import change, commit, judge, steps, without


def passed_over() -> tuple[dict[int, list[StepRecord]], list[Entry]]:
    """Attempt 2 could not read 8 and went back to 4, but died before its first checkpoint; attempt 3 could read it."""
    entries: list[Entry] = [Fence(attempt=1), commit(1, 4), commit(1, 8), Fence(attempt=2), Doubt(attempt=1, step=8, reason="corrupt")]
    return {1: steps(1, 1, 9), 2: steps(2, 5, 8), 3: steps(3, 9, 12)}, [*entries, Fence(attempt=3), commit(3, 12)]


def test_what_one_attempt_passed_over_another_may_continue():
    records, entries = passed_over()
    change(1, 7, skipped=True, setting="other")(records, entries)

    proof = judge(records, entries)

    assert proof.ok, proof.problems
    assert "1 update skipped as a spike (step 7)" in proof.line, "attempt 1 led to it"
    assert committed_step({1: records[1], 2: records[2]}, entries[:5]) == 4, "attempt 2 went on from there"


def test_an_attempt_does_not_start_from_what_it_passed_over():
    records, entries = passed_over()
    records[2] = steps(2, 9, 10)

    assert judge(records, entries).problems == ("attempt 2 starts with step 9, but step 8 was not a trusted checkpoint when it began",)


def test_no_attempt_comes_back_to_a_history_that_was_left_because_of_a_doubt():
    records, entries = passed_over()
    entries.insert(5, commit(2, 6))

    assert judge(records, entries).problems[0] == "attempt 3 starts with step 9, but step 8 was not a trusted checkpoint when it began"


def trusted_again() -> tuple[dict[int, list[StepRecord]], list[Entry]]:
    """40 and 60 were refused, so attempt 2 went back to 20; a person trusted 60 again, and attempt 3 goes on from there."""
    entries: list[Entry] = [Fence(attempt=1), commit(1, 20), commit(1, 40), commit(1, 60), Fence(attempt=2)]
    entries += [Reject(attempt=1, step=step, reason="corrupt") for step in (60, 40)]
    entries += [commit(2, 30), Trust(attempt=1, step=60, reason="by hand"), Fence(attempt=3), commit(3, 70)]
    return {1: steps(1, 1, 65), 2: steps(2, 21, 35), 3: steps(3, 61, 70)}, entries


def test_a_checkpoint_that_is_trusted_again_brings_back_the_history_that_led_to_it():
    records, entries = trusted_again()
    change(1, 50, skipped=True)(records, entries)
    change(2, 33, skipped=True, setting="other")(records, entries)

    proof = judge(records, entries, num_steps_done=70)

    assert proof.ok, proof.problems
    assert "1 update skipped as a spike (step 50)" in proof.line
    assert committed_step(records, entries) == 70
    assert committed_step({1: records[1], 2: records[2]}, entries[:9]) == 30


def test_no_attempt_starts_from_what_it_committed_itself():
    records, entries = trusted_again()
    records[2] = steps(2, 31, 35)

    assert judge(records, entries, num_steps_done=70).problems[0].startswith("attempt 2 starts with step 31, but step 30 was not a trusted")


def test_without_the_records_that_led_to_it_a_checkpoint_trusted_again_proves_nothing():
    records, entries = trusted_again()
    without(1, 50)(records, entries)

    assert "step 50 never ran" in judge(records, entries, num_steps_done=70).problems


def test_a_checkpoint_may_be_trusted_again_while_an_attempt_begins():
    """It was fenced already, and read the log on before it chose; an earlier attempt could not know."""
    records, entries = trusted_again()
    entries[8:10] = reversed(entries[8:10])
    assert judge(records, entries, num_steps_done=70).ok

    records[2] = steps(2, 61, 65)
    assert judge(records, entries, num_steps_done=70).problems[0] == (
        "attempt 2 starts with step 61, but step 60 was not a trusted checkpoint when it began"
    )


def kept_from_memory() -> tuple[dict[int, list[StepRecord]], list[Entry]]:
    """Attempt 1 was killed while it wrote its last checkpoint; attempt 2 found its state in memory, and wrote it."""
    entries: list[Entry] = [Fence(attempt=1), commit(1, 4), Fence(attempt=2), Snapshot(attempt=1, step=8), commit(2, 8)]
    return {1: steps(1, 1, 8)}, entries


def test_an_attempt_that_did_no_step_may_keep_what_it_found_in_memory():
    records, entries = kept_from_memory()
    assert judge(records, entries, num_steps_done=8).ok


def test_who_goes_on_from_what_such_an_attempt_kept_continues_the_history_that_led_to_it():
    records, entries = kept_from_memory()
    proof = judge(records | {3: steps(3, 9, 12)}, [*entries, Fence(attempt=3), commit(3, 12)])
    assert proof.ok, proof.problems


def test_no_attempt_keeps_another_step_than_it_found():
    records, entries = kept_from_memory()
    entries[-1] = commit(2, 7)
    assert judge(records, entries, num_steps_done=8).problems == ("attempt 2 committed step 7 without a record of it",)
