"""The proof that a run skipped and repeated nothing: it holds for honest records, and every way of tampering breaks it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.compute import ComputeConfig
from model.parallel.config import ParallelConfig
from orchestrator import codec
from orchestrator.codec import DecodeError
from orchestrator.config import RecoveryConfig
from orchestrator.records.commit_log import Commit, Entry, Fence, Reject
from orchestrator.records.keys import segment_key
from orchestrator.records.ledger import StepRecord, read_ledger, setting_of
from orchestrator.records.segments import compact
from orchestrator.verify import Proof, committed_step, verify
from tests.fakes.memory_store import MemoryStore
from tests.orchestrator.worker.tiny_run import tiny_config

TOKENS = 1024
Tampering = Callable[[dict[int, list[StepRecord]], list[Entry]], Any]


def digest(step: int, like: str = "") -> str:
    """In the form of `like`: as earlier versions wrote it, or now."""
    return f"{'sum:' if like.startswith('sum:') else ''}samples of {step}"


def steps(attempt: int, first: int, last: int, **changes: Any) -> list[StepRecord]:
    return [
        replace(
            StepRecord(
                step=step, attempt=attempt, loss=1 / step, grad_norm=step / 7, tokens=TOKENS, samples=digest(step),
                layout=ParallelConfig(dp_shard=2), deterministic=True, setting="two GPUs",
            ),
            **changes,
        )
        for step in range(first, last + 1)
    ]  # fmt: skip


def commit(attempt: int, step: int) -> Commit:
    return Commit(attempt=attempt, step=step, manifest_key="", manifest_sha256="")


def interrupted_run() -> tuple[dict[int, list[StepRecord]], list[Entry]]:
    """Checkpoints every 4 steps; killed after steps 6 and 11; 12 steps in all, 2 + 3 of them replayed."""
    records = {1: steps(1, 1, 6), 2: steps(2, 5, 11), 3: steps(3, 9, 12)}
    entries: list[Entry] = [Fence(attempt=1), commit(1, 4), Fence(attempt=2), commit(2, 8), Fence(attempt=3), commit(3, 12)]
    return records, entries


def judge(records: dict[int, list[StepRecord]], entries: list[Entry], *, num_steps_done: int = 12, **more: Any) -> Proof:
    return verify(
        run="first",
        records=records,
        entries=entries,
        expected_digest=digest,
        expected_tokens=lambda _: TOKENS,
        num_steps_done=num_steps_done,
        **more,
    )


def test_an_uninterrupted_run_is_verified():
    proof = judge({1: steps(1, 1, 200)}, [Fence(attempt=1), commit(1, 200)], num_steps_done=200)

    assert proof == Proof(
        ok=True, line="VERIFIED run first: 200 steps, 204,800 tokens, 1 attempt, nothing skipped or repeated", problems=()
    )


def test_an_interrupted_run_is_verified_with_what_it_replayed():
    proof = judge(*interrupted_run())

    assert proof.ok
    assert proof.line == (
        "VERIFIED run first: 12 steps, 12,288 tokens, 3 attempts, 5 steps replayed bit for bit, nothing skipped or repeated"
    )


def test_updates_that_were_skipped_as_spikes_are_told():
    """Each once, though step 10 was replayed; and not those that only an attempt that was lost skipped."""
    records, entries = interrupted_run()
    for attempt, step in ((1, 3), (2, 10), (3, 10), (3, 11)):
        change(attempt, step, skipped=True)(records, entries)
    change(2, 11, skipped=True, setting="other")(records, entries)

    assert judge(records, entries).line == (
        "VERIFIED run first: 12 steps, 12,288 tokens, 3 attempts, 4 steps replayed bit for bit, "
        "1 replayed with the same samples (other settings or not deterministic: bits can't be compared), "
        "3 updates skipped as spikes (steps 3, 10, 11), no sample skipped or repeated"
    )
    assert "1 update skipped as a spike (step 3), no sample" in judge(records, entries, num_steps_done=8).line


@pytest.mark.parametrize("numbers", [{"loss": float("nan")}, {"grad_norm": float("inf")}])
def test_updates_that_are_not_finite_were_withheld_or_speak_against_the_run(numbers: dict[str, float]):
    records, entries = interrupted_run()
    change(1, 3, skipped=True, **numbers)(records, entries)
    assert "1 update withheld as not finite (step 3), no sample skipped" in judge(records, entries).line

    change(3, 11, **numbers)(records, entries)
    proof = judge(records, entries)
    assert not proof.ok
    assert any(line.startswith("step 11 is not finite (loss ") and "was applied" in line for line in proof.problems)


def test_where_documents_are_kept_apart_fewer_tokens_have_labels_and_never_more():
    records, entries = interrupted_run()
    change(1, 3, tokens=TOKENS - 9)(records, entries)
    assert not judge(records, entries).ok
    assert judge(records, entries, has_gaps=True).ok
    change(1, 4, tokens=TOKENS + 1)(records, entries)
    assert not judge(records, entries, has_gaps=True).ok


def test_many_skipped_updates_are_counted_and_the_first_ones_named():
    proof = judge({1: steps(1, 1, 20, skipped=True)}, [Fence(attempt=1), commit(1, 20)], num_steps_done=20)

    assert "20 updates skipped as spikes (steps 1, 2, 3, 4, 5, 6, 7, 8, …), no sample" in proof.line


def test_a_run_may_be_verified_while_it_goes_on():
    assert judge(*interrupted_run(), num_steps_done=8).ok


def test_an_attempt_that_died_before_its_first_step_counts_but_changes_nothing():
    records, entries = interrupted_run()

    proof = judge(records, [*entries, Fence(attempt=4)])

    assert proof.ok
    assert "4 attempts" in proof.line


def test_in_another_setting_bits_can_not_be_compared_and_the_verdict_says_so():
    """The layout is the same: it was, say, the number of steps and so the learning rate that a resume changed."""
    records = {1: steps(1, 1, 7), 2: steps(2, 5, 6), 3: steps(3, 5, 12, setting="more steps", loss=0.5)}

    proof = judge(records, [Fence(attempt=1), commit(1, 4), Fence(attempt=2), Fence(attempt=3)])

    assert proof.ok
    assert (
        "2 steps replayed bit for bit, 3 replayed with the same samples (other settings or not deterministic: bits can't be compared)"
        in proof.line
    )


def test_a_setting_is_what_a_resume_may_change_and_bits_depend_on(tmp_path: Path):
    config = tiny_config(tmp_path)
    others = [
        replace(config, train=replace(config.train, num_steps=9)),
        replace(config, train=replace(config.train, micro_rows=2)),
        replace(config, train=replace(config.train, deterministic=False)),
        replace(config, parallel=ParallelConfig(tp=2)),
        replace(config, compute=ComputeConfig(compile=True)),
        replace(config, resources=replace(config.resources, device="cuda")),
    ]
    settings = {setting_of(other, torch_version="2.13.0") for other in (config, *others)} | {setting_of(config, torch_version="2.11.0")}

    assert len(settings) == 8
    assert setting_of(replace(config, recovery=RecoveryConfig(max_restarts=1)), torch_version="2.13.0") in settings


def test_a_run_that_another_version_began_is_compared_with_the_plan_in_the_form_of_each_record():
    records, entries = interrupted_run()
    records[3] = [replace(one, samples=digest(one.step, "sum:")) for one in records[3]]

    assert judge(records, entries).ok
    change(3, 10, samples=digest(11, "sum:"))(records, entries)
    assert judge(records, entries).problems == ("attempt 3: step 10 trained on other samples than the plan's",)


def with_tokens(records: dict[int, list[StepRecord]]) -> dict[int, list[StepRecord]]:
    return {attempt: [replace(one, token_digest=f"tokens of {one.step}") for one in its] for attempt, its in records.items()}


def test_a_replay_on_other_tokens_is_no_replay_in_any_setting():
    records, entries = interrupted_run()
    records = with_tokens(records)
    assert judge(records, entries).ok
    change(2, 6, token_digest="others", deterministic=False, setting="four GPUs")(records, entries)
    assert judge(records, entries).line == ("NOT VERIFIED run first: attempt 2: step 6 trained on other tokens than in attempt 1")


def test_what_earlier_versions_recorded_is_compared_with_nothing():
    records, entries = interrupted_run()
    records |= {2: with_tokens(records)[2]}
    assert judge(records, entries).ok
    read_again = judge(records, entries, expected_token_digest="tokens of {}".format)
    assert read_again.line.endswith("nothing skipped or repeated, every token as in the dataset but for 10 steps without a record of them")


def test_a_dataset_that_is_read_again_must_hold_what_every_step_trained_on():
    records, entries = interrupted_run()
    records = with_tokens(records)
    assert judge(records, entries, expected_token_digest="tokens of {}".format).line.endswith(", every token as in the dataset")
    other = judge(records, entries, expected_token_digest=lambda step: f"tokens of {step if step != 3 else 4}")
    assert other.problems == ("attempt 1: step 3 trained on other tokens than its dataset has",)


def test_what_must_be_there_is_what_was_committed():
    assert committed_step(*interrupted_run()) == 12
    assert committed_step({1: steps(1, 1, 6)}, [Fence(attempt=1), commit(1, 4), Fence(attempt=2)]) == 4
    assert committed_step({1: steps(1, 1, 3)}, [Fence(attempt=1)]) == 0


def test_what_a_fallback_went_behind_need_not_be_there():
    """60 and 40 were refused, or 40 was gone; the attempt that continued 20 was stopped at 30."""
    records = {1: steps(1, 1, 65), 2: steps(2, 21, 30)}
    begun = [Fence(attempt=1), commit(1, 20), commit(1, 40), commit(1, 60), Fence(attempt=2)]
    refused_60, refused_40 = (Reject(attempt=1, step=step, reason="corrupt") for step in (60, 40))

    for entries in ([*begun, refused_60, refused_40], [*begun, refused_60]):
        assert committed_step(records, entries) == 20
        assert judge(records, entries, num_steps_done=20).ok


def test_a_step_that_was_not_deterministic_is_nothing_to_compare_with():
    """Earlier versions wrote no setting."""
    records = {1: steps(1, 1, 6, deterministic=False, setting=""), 2: steps(2, 5, 12, setting="")}

    proof = judge(records, [Fence(attempt=1), commit(1, 4), Fence(attempt=2), commit(2, 12)])

    assert "2 replayed with the same samples (other settings or not deterministic: bits can't be compared)" in proof.line


def test_without_determinism_bits_are_not_compared():
    records = {1: steps(1, 1, 6, deterministic=False), 2: steps(2, 5, 12, deterministic=False, loss=0.5)}

    proof = judge(records, [Fence(attempt=1), commit(1, 4), Fence(attempt=2)])

    assert proof.ok
    assert "bit for bit" not in proof.line


def test_coming_back_to_a_setting_is_compared_with_its_first_run_there():
    other = {"layout": ParallelConfig(tp=2), "setting": "other", "loss": 0.5}
    entries = [Fence(attempt=1), commit(1, 4), Fence(attempt=2), Fence(attempt=3)]

    good = judge({1: steps(1, 1, 6), 2: steps(2, 5, 6, **other), 3: steps(3, 5, 12)}, entries)
    bad = judge({1: steps(1, 1, 6), 2: steps(2, 5, 6, **other), 3: steps(3, 5, 12, loss=0.25)}, entries)

    assert good.ok
    assert not bad.ok


def test_after_a_refused_checkpoint_an_attempt_continues_the_one_before():
    records = {1: steps(1, 1, 9), 2: steps(2, 5, 12)}
    entries = [Fence(attempt=1), commit(1, 4), commit(1, 8), Fence(attempt=2), Reject(attempt=1, step=8, reason="corrupt"), commit(2, 12)]

    assert judge(records, entries).ok


def test_an_attempt_does_not_start_from_a_checkpoint_that_it_rejected_itself():
    records = {1: steps(1, 1, 9), 2: steps(2, 9, 12)}
    entries = [Fence(attempt=1), commit(1, 4), commit(1, 8), Fence(attempt=2), Reject(attempt=1, step=8, reason="corrupt"), commit(2, 12)]

    assert judge(records, entries).problems[0] == ("attempt 2 starts with step 9, but step 8 was not a trusted checkpoint when it began")


def change(attempt: int, step: int, /, **values: Any) -> Tampering:
    def tamper(records: dict[int, list[StepRecord]], entries: list[Entry]) -> None:
        records[attempt] = [replace(one, **values) if one.step == step else one for one in records[attempt]]

    return tamper


def without(attempt: int, step: int) -> Tampering:
    def tamper(records: dict[int, list[StepRecord]], entries: list[Entry]) -> None:
        records[attempt] = [one for one in records[attempt] if one.step != step]

    return tamper


TAMPERINGS: dict[str, tuple[Tampering, str]] = {
    "a step is missing in the middle": (without(2, 6), "attempt 2: step 6 is missing: step 7 is next"),
    "the first step is missing": (without(1, 1), "attempt 1 starts with step 2, but step 1 was not a trusted checkpoint when it began"),
    "the last step is missing": (without(3, 12), "attempt 3 committed step 12 without a record of it"),
    "a step ran twice in one attempt": (lambda records, _: records[1].insert(3, records[1][2]), "attempt 1: step 3 is recorded twice"),
    "an attempt's records are gone": (lambda records, _: records.pop(1), "attempt 1 committed step 4 without a record of it"),
    "other samples": (change(1, 3, samples=digest(4)), "attempt 1: step 3 trained on other samples than the plan's"),
    "fewer tokens": (change(2, 7, tokens=1000), "attempt 2: step 7 trained on 1,000 tokens instead of 1,024"),
    "a replayed loss differs in its last bit": (change(2, 5, loss=0.2 + 2**-55), "step 5: loss 0.20000000000000004 in attempt 2"),
    "a replayed grad norm differs": (change(3, 10, grad_norm=1.5), "step 10: grad_norm 1.5 in attempt 3 is not 1.4285714285714286"),
    "a replayed update is skipped": (change(2, 5, skipped=True), "step 5: skipped True in attempt 2 is not False as in attempt 1"),
    "a replayed loss is not a number": (change(2, 5, loss=float("nan")), "step 5: loss nan in attempt 2 is not 0.2 as in attempt 1"),
    "a start from a step that was not committed": (lambda _, entries: entries.remove(commit(2, 8)), "attempt 3 starts with step 9"),
    "a start from a rejected checkpoint": (
        lambda _, entries: entries.insert(4, Reject(attempt=2, step=8, reason="corrupt")),
        "attempt 3 starts with step 9, but step 8 was not a trusted checkpoint",
    ),
    "a start from a zombie's commit": (
        lambda _, entries: (entries.remove(commit(2, 8)), entries.insert(4, commit(2, 8))),
        "attempt 3 starts with step 9, but step 8 was not a trusted checkpoint",
    ),
    "an attempt nobody began": (lambda _, entries: entries.remove(Fence(attempt=2)), "attempt 2 has records but no fence"),
    "a record in another attempt's ledger": (change(1, 2, attempt=2), "a record of attempt 2 (step 2) is in the ledger of attempt 1"),
    "an attempt that skipped ahead": (
        lambda records, _: records.update({3: steps(3, 10, 12)}),
        "attempt 3 starts with step 10, but step 9 was not a trusted checkpoint when it began",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found_and_named(name: str):
    tamper, problem = TAMPERINGS[name]
    records, entries = interrupted_run()
    tamper(records, entries)

    proof = judge(records, entries)

    assert not proof.ok
    assert proof.line.startswith("NOT VERIFIED run first: ")
    assert "\n" not in proof.line
    assert any(found.startswith(problem) for found in proof.problems), proof.problems


def compacted_run() -> MemoryStore:
    """The ledger of 14 steps: a checkpoint at each fourth one, when records of later steps were written with its own."""
    store = MemoryStore()
    for first, last, committed in ((1, 3, 0), (4, 5, 4), (6, 7, 4), (8, 10, 8), (11, 12, 12), (13, 14, 12)):
        body = b"".join(codec.to_json(record) + b"\n" for record in steps(1, first, last))
        store.create(segment_key(1, first, last), body)
        compact(store, attempt=1, step=committed)
    return store


def judge_compacted(store: MemoryStore) -> Proof:
    entries: list[Entry] = [Fence(attempt=1), *(commit(1, step) for step in (4, 8, 12))]
    return judge(read_ledger(store), entries)


def test_a_part_of_a_compacted_ledger_that_is_gone_is_missed():
    """A missing one at the end breaks no chain: there the commit log tells that more was recorded."""
    whole = compacted_run()
    assert judge_compacted(whole).ok
    keys = sorted(whole.objects)
    assert [key for key in keys if key.startswith("ledger-upto/")] == [f"ledger-upto/a0001/{step:09d}.jsonl" for step in (3, 7, 12)]
    for removed in ([keys[0]], [keys[1]], [keys[2]], keys[1:]):
        left = MemoryStore(objects={key: data for key, data in whole.objects.items() if key not in removed})
        with suppress(DecodeError):
            assert not judge_compacted(left).ok, removed


def test_steps_that_were_lost_and_not_done_again_never_ran():
    """The last attempt went back to step 4 and stopped at 6: what an older one did after it no longer counts."""
    records = {1: steps(1, 1, 12), 2: steps(2, 5, 6)}

    proof = judge(records, [Fence(attempt=1), commit(1, 4), Fence(attempt=2)])

    assert proof.line == "NOT VERIFIED run first: 6 steps never ran, the first is step 7"


def test_a_run_that_claims_more_than_it_did_is_caught():
    assert judge(*interrupted_run(), num_steps_done=13).problems == ("step 13 never ran",)


def test_no_records_at_all():
    assert not judge({}, [], num_steps_done=1).ok


def test_the_line_says_how_many_more_problems_there_are():
    records, entries = interrupted_run()
    records[1] = [replace(one, samples="others") for one in records[1]]

    assert judge(records, entries).line.endswith("(and 5 more)")


def test_rows_that_were_not_trained_on_are_told_plainly_and_their_tokens_do_not_count():
    records, entries = interrupted_run()
    change(1, 3, unread_rows=2, tokens=TOKENS - 2 * 64)(records, entries)
    change(3, 9, unread_rows=1, tokens=TOKENS - 64)(records, entries)
    change(3, 12, repetitive_rows=3, tokens=TOKENS - 3 * 64)(records, entries)

    proof = judge(records, entries, row_tokens=lambda _: 64)

    assert proof.line == (
        "VERIFIED run first: 12 steps, 11,904 tokens, 3 attempts, 4 steps replayed bit for bit, "
        "1 replayed with the same samples (other settings or not deterministic: bits can't be compared), "
        "3 rows left out as repetitive (step 12), 3 rows could not be read and NOT TRAINED ON (steps 3, 9), "
        "no other sample skipped or repeated"
    ), proof.problems


def test_a_row_that_was_left_out_has_no_tokens_and_none_is_missing_without_being_told():
    for told, tokens in ((1, TOKENS), (1, TOKENS - 128), (0, TOKENS - 64)):
        records, entries = interrupted_run()
        change(3, 12, unread_rows=told, tokens=tokens)(records, entries)
        proof = judge(records, entries, row_tokens=lambda _: 64)
        assert not proof.ok
        assert f"step 12 trained on {tokens:,} tokens instead of {TOKENS - 64 * told:,}" in proof.line


def test_the_repetition_filter_leaves_out_the_same_rows_in_a_replay():
    records, entries = interrupted_run()
    change(1, 5, repetitive_rows=1, tokens=TOKENS - 64)(records, entries)

    assert "step 5: repetitive_rows 0 in attempt 2 is not 1 as in attempt 1" in judge(records, entries, row_tokens=lambda _: 64).problems


def test_tokens_of_steps_with_rows_that_could_not_be_read_are_not_compared():
    records, entries = interrupted_run()
    for attempt, its_records in records.items():
        records[attempt] = [replace(record, token_digest=f"tokens of {record.step}") for record in its_records]
    change(1, 3, unread_rows=1, tokens=TOKENS - 64, token_digest="eos")(records, entries)
    change(1, 5, unread_rows=1, tokens=TOKENS - 64, token_digest="eos")(records, entries)

    def in_the_dataset(step: int) -> str:
        return "" if step in (3, 7, 8) else f"tokens of {step}"

    proof = judge(records, entries, row_tokens=lambda _: 64, expected_token_digest=in_the_dataset)

    assert proof.ok, proof.problems
    assert proof.line.endswith(
        "every token as in the dataset but for 2 steps with rows that could not be read, 2 steps of which rows can't be read now"
    )
    change(1, 4, token_digest="others")(records, entries)
    assert not judge(records, entries, row_tokens=lambda _: 64, expected_token_digest=in_the_dataset).ok
