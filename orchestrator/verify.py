"""Proves from the records that a run trained on every sample exactly once, whatever happened to its workers. Pure; no torch.

A run's history is what its last attempt did, before that what led to the checkpoint that it continued, and so on back to step 1. Steps that
an attempt did after the checkpoint that the next one continued were lost, and are done again: they must come out the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.records.commit_log import Commit, Counting, Entry, Fence, Snapshot, trusted_commits
from orchestrator.records.ledger import StepRecord

MANY = 8
"""Steps to name one by one."""
Records = Mapping[int, Sequence[StepRecord]]
"""By attempt, in the order of writing."""
Starts = Mapping[int, Mapping[int, int]]
"""By attempt: the steps that it could continue from, each with the attempt that committed it; step 0, from nothing, with attempt 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What the records of a run prove, or what speaks against it."""

    ok: bool
    line: str
    """The result in one line, for people."""
    problems: tuple[str, ...]
    """What speaks against the run, one line each; () when ok."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replays:
    """Steps that ran more than once."""

    exact: int
    """Replayed steps whose numbers were compared bit for bit."""
    incomparable: int
    """Steps replayed in another setting (see `ledger.setting_of`) or not in deterministic mode: only their samples can be compared."""


def verify(
    *,
    run: str,
    records: Records,
    entries: Sequence[Entry],
    expected_digest: Callable[[int, str], str],
    expected_tokens: Callable[[int], int],
    num_steps_done: int,
    num_steps_planned: int | None = None,
    expected_token_digest: Callable[[int], str] | None = None,
    has_gaps: bool = False,
    row_tokens: Callable[[int], int] = lambda _: 0,
) -> Proof:
    """The proof for a run of which `num_steps_done` steps are claimed: all of them, or so many of `num_steps_planned` so far.

    `entries` is the commit log. Of a step, `expected_digest` gives the digest of its samples by the plan, in the form of the recorded one
    (`data_pipeline.dataset.plan.planned_digest`), `expected_tokens` its tokens, `row_tokens` those of a row, which may be left out, and
    `expected_token_digest` that of its tokens as the dataset has them, "" where they can't be read. `has_gaps`: labels may be missing.
    """
    attempts = {attempt: records[attempt] for attempt in sorted(records) if records[attempt]}
    history = _history_of(attempts, _possible_starts(entries))
    problems = [
        *_problems_of_attempts(attempts, entries),
        *_history_is_complete(history, num_steps_done),
        *_updates_are_finite(history),
        *_samples_are_the_plans(attempts, expected_digest),
        *_tokens_are_as_many(attempts, expected_tokens, row_tokens, has_gaps),
        *_tokens_are_the_same(attempts),
        *(_tokens_are_the_datasets(attempts, expected_token_digest) if expected_token_digest else ()),
        *_replays_agree(attempts),
    ]
    if problems:
        return _refuted(run, problems)
    done = [record for step, record in history.items() if step <= num_steps_done]
    num_tokens = sum(expected_tokens(record.step) - row_tokens(record.step) * _num_left_out(record) for record in done)
    num_attempts = len({entry.attempt for entry in entries if isinstance(entry, Fence)})
    line = _success(_claim(run, num_steps_done, num_steps_planned), num_tokens, num_attempts, count_replays(attempts), done)
    return Proof(ok=True, line=line + _words_of_tokens(attempts, expected_token_digest), problems=())


def _problems_of_attempts(attempts: Records, entries: Sequence[Entry]) -> Iterator[str]:
    yield from _attempts_are_whole(attempts)
    yield from _attempts_continue_commits(attempts, _possible_starts(entries))
    yield from _commits_are_recorded(attempts, entries)


def _refuted(run: str, problems: Sequence[str]) -> Proof:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Proof(ok=False, line=f"NOT VERIFIED run {run}: {problems[0]}{more}", problems=tuple(problems))


def _claim(run: str, num_steps_done: int, num_steps_planned: int | None) -> str:
    so_far, planned = ("", "") if num_steps_planned is None else ("so far: ", f" of {num_steps_planned:,}")
    return f"{so_far}run {run}: {num_steps_done:,}{planned} steps"


def end_is_kept(run: str, entries: Sequence[Entry], last_step: int) -> Proof:
    """Of a run that has finished there is a checkpoint of its last step, or was."""
    if any(isinstance(entry, Commit) and entry.step == last_step for entry in entries):
        return Proof(ok=True, line="", problems=())
    return _refuted(run, [f"it has finished, and no checkpoint of its last step, {last_step}, was ever committed"])


def committed_step(records: Records, entries: Sequence[Entry]) -> int:
    """The newest trusted checkpoint on the history of the last attempt that did a step; 0 for none.

    A trusted one may lie beside that history: an attempt that found it gone went back behind it.
    """
    last = max((attempt for attempt in records if records[attempt]), default=0)
    start = records[last][0].step - 1 if last else 0
    on_history = (commit.step for commit in trusted_commits(entries) if commit.attempt >= last or commit.step <= start)
    return max(on_history, default=0)


def count_replays(records: Records) -> Replays:
    firsts: set[tuple[object, ...]] = set()
    seen: set[int] = set()
    exact = incomparable = 0
    for record in _all(records):
        comparable = record.deterministic and _setting(record) in firsts
        exact += comparable
        incomparable += record.step in seen and not comparable
        seen.add(record.step)
        firsts.add(_setting(record))
    return Replays(exact=exact, incomparable=incomparable)


def _attempts_are_whole(records: Records) -> Iterator[str]:
    """Within an attempt, steps follow each other."""
    for attempt, its_records in records.items():
        expected = its_records[0].step
        for record in its_records:
            if record.attempt != attempt:
                yield f"a record of attempt {record.attempt} (step {record.step}) is in the ledger of attempt {attempt}"
            if record.step != expected:
                what = "recorded twice" if record.step < expected else f"missing: step {record.step} is next"
                yield f"attempt {attempt}: step {min(expected, record.step)} is {what}"
            expected = record.step + 1


def _attempts_continue_commits(records: Records, starts: Starts) -> Iterator[str]:
    """Every attempt was begun in the commit log, and started from nothing or from a checkpoint that counted then."""
    for attempt, its_records in records.items():
        start = its_records[0].step - 1
        if attempt not in starts:
            yield f"attempt {attempt} has records but no fence in the commit log"
        elif start not in starts[attempt]:
            yield f"attempt {attempt} starts with step {start + 1}, but step {start} was not a trusted checkpoint when it began"


def _possible_starts(entries: Sequence[Entry]) -> Starts:
    """Steps that counted when an attempt began, or were trusted again since, less what it rejected or passed over; or what it says it
    found in memory."""
    starts: dict[int, dict[int, int]] = {}
    in_memory: dict[int, dict[int, int]] = {}
    counting = Counting()
    for entry in entries:
        counting.add(entry)
        if isinstance(entry, Snapshot):
            in_memory.setdefault(counting.attempt, {})[entry.step] = entry.attempt
        if not isinstance(entry, Commit):
            older = (commit for commit in reversed(counting.trusted) if commit.attempt < counting.attempt)
            its = {commit.step: commit.attempt for commit in older if (commit.step, commit.attempt) not in counting.doubted}
            starts[counting.attempt] = {0: 0} | its | in_memory.get(counting.attempt, {})
    return starts


def _commits_are_recorded(records: Records, entries: Sequence[Entry]) -> Iterator[str]:
    """A checkpoint holds nothing that is not recorded: the ledger is durable first. What an attempt went on from another one recorded."""
    began_with: set[tuple[int, int]] = set()
    attempt = 0
    for entry in entries:
        if isinstance(entry, Fence):
            attempt = entry.attempt
        elif isinstance(entry, Snapshot):
            began_with.add((attempt, entry.step))
            if not _has(records, entry):
                yield f"an attempt went on from attempt {entry.attempt}'s snapshot of step {entry.step} without a record of it"
        elif isinstance(entry, Commit) and (entry.attempt, entry.step) not in began_with and not _has(records, entry):
            yield f"attempt {entry.attempt} committed step {entry.step} without a record of it"


def _has(records: Records, kept: Commit | Snapshot) -> bool:
    return any(record.step == kept.step for record in records.get(kept.attempt, ()))


def _history_is_complete(history: Mapping[int, StepRecord], num_steps_done: int) -> Iterator[str]:
    """Steps 1 … num_steps_done are on the history that the last attempt continues."""
    missing = sorted(set(range(1, num_steps_done + 1)) - set(history))
    if missing:
        yield f"step {missing[0]} never ran" if len(missing) == 1 else f"{len(missing)} steps never ran, the first is step {missing[0]}"


def _history_of(records: Records, starts: Starts) -> dict[int, StepRecord]:
    """By step, in order, on the history that the last attempt continues: back from it, to who committed what it started from."""
    stretches: list[dict[int, StepRecord]] = []
    attempt, last_step = max(records, default=0), None
    while attempt in records:
        its_records = records[attempt]
        stretches.append({record.step: record for record in its_records if last_step is None or record.step <= last_step})
        last_step = its_records[0].step - 1
        attempt = starts.get(attempt, {}).get(last_step, 0)
        while attempt and attempt not in records:  # it did no step, and only kept what it had found in memory
            attempt = starts.get(attempt, {}).get(last_step, 0)
    return {step: record for stretch in reversed(stretches) for step, record in stretch.items()}


def _updates_are_finite(history: Mapping[int, StepRecord]) -> Iterator[str]:
    """Earlier versions applied what is not finite; from there on all of it is."""
    bad = next((record for record in history.values() if not (record.skipped or record.is_finite)), None)
    if bad is not None:
        numbers = f"loss {bad.loss:g}, gradient norm {bad.grad_norm:g}"
        yield f"step {bad.step} is not finite ({numbers}) and its update was applied: weights from there on are worth nothing"


def _samples_are_the_plans(records: Records, expected_digest: Callable[[int, str], str]) -> Iterator[str]:
    for record in _all(records):
        if record.samples != expected_digest(record.step, record.samples):
            yield f"attempt {record.attempt}: step {record.step} trained on other samples than the plan's"


def _tokens_are_as_many(
    records: Records, expected_tokens: Callable[[int], int], row_tokens: Callable[[int], int], has_gaps: bool
) -> Iterator[str]:
    for record in _all(records):
        expected = expected_tokens(record.step) - row_tokens(record.step) * _num_left_out(record)
        if record.tokens > expected or (record.tokens < expected and not has_gaps):
            yield f"attempt {record.attempt}: step {record.step} trained on {record.tokens:,} tokens instead of {expected:,}"


def _num_left_out(record: StepRecord) -> int:
    """Rows of which nothing was learnt."""
    return record.unread_rows + record.repetitive_rows


def _tokens_are_the_same(records: Records) -> Iterator[str]:
    """A step that ran again, in whatever setting, trained on the same tokens, as far as they could be read."""
    firsts: dict[int, StepRecord] = {}
    for record in filter(_knows_its_tokens, _all(records)):
        first = firsts.setdefault(record.step, record)
        if record.token_digest != first.token_digest:
            yield f"attempt {record.attempt}: step {record.step} trained on other tokens than in attempt {first.attempt}"


def _tokens_are_the_datasets(records: Records, expected_token_digest: Callable[[int], str]) -> Iterator[str]:
    for record in filter(_knows_its_tokens, _all(records)):
        expected = expected_token_digest(record.step)
        if expected and record.token_digest != expected:
            yield f"attempt {record.attempt}: step {record.step} trained on other tokens than its dataset has"


def _knows_its_tokens(record: StepRecord) -> bool:
    """Earlier versions did not record a digest of them, and that of a step with rows that could not be read says nothing of the dataset."""
    return bool(record.token_digest) and not record.unread_rows


def _words_of_tokens(records: Records, expected_token_digest: Callable[[int], str] | None) -> str:
    """What a dataset that was read again says."""
    if expected_token_digest is None:
        return ""
    unknown = {record.step for record in _all(records) if not record.token_digest}
    unread = {record.step for record in _all(records) if record.unread_rows}
    unreadable = {record.step for record in filter(_knows_its_tokens, _all(records)) if not expected_token_digest(record.step)}
    parts = (
        (unknown, "without a record of them"),
        (unread - unknown, "with rows that could not be read"),
        (unreadable - unread - unknown, "of which rows can't be read now"),
    )
    excepted = [f"{len(steps)} step{'s' * (len(steps) != 1)} {why}" for steps, why in parts if steps]
    return ", every token as in the dataset" + (f" but for {', '.join(excepted)}" if excepted else "")


def _replays_agree(records: Records) -> Iterator[str]:
    """The same step in the same setting gives the same bits."""
    firsts: dict[tuple[object, ...], StepRecord] = {}
    for record in _all(records):
        first = firsts.setdefault(_setting(record), record) if record.deterministic else record
        for name in ("loss", "grad_norm", "skipped", "repetitive_rows"):
            mine, its = getattr(record, name), getattr(first, name)
            if _bits(mine) != _bits(its):
                yield f"step {record.step}: {name} {mine!r} in attempt {record.attempt} is not {its!r} as in attempt {first.attempt}"


def _setting(record: StepRecord) -> tuple[object, ...]:
    """What two records must share to be comparable; rows that could not be read may be readable at another time."""
    return (record.step, record.setting, record.deterministic, record.unread_rows)


def _bits(value: float) -> bytes:
    """The bits of a float, to compare: NaN equals itself and 0.0 is not -0.0."""
    return struct.pack("<d", value)


def _all(records: Records) -> Iterator[StepRecord]:
    return (record for its_records in records.values() for record in its_records)


def _success(claim: str, num_tokens: int, num_attempts: int, replays: Replays, done: Sequence[StepRecord]) -> str:
    """`done` are the records of the history that is proved."""
    parts = [claim, f"{num_tokens:,} tokens", f"{num_attempts} attempt{'s' * (num_attempts != 1)}"]
    if replays.exact:
        parts.append(f"{replays.exact} step{'s' * (replays.exact != 1)} replayed bit for bit")
    if replays.incomparable:
        parts.append(f"{replays.incomparable} replayed with the same samples (other settings or not deterministic: bits can't be compared)")
    skipped, unread = [record for record in done if record.skipped], [record for record in done if record.unread_rows]
    spikes, withheld = ([record.step for record in skipped if record.is_finite is spike] for spike in (True, False))
    if spikes:
        parts.append(f"{_updates(spikes)} skipped as {'spikes' if len(spikes) != 1 else 'a spike'} ({_steps(spikes)})")
    if withheld:
        parts.append(f"{_updates(withheld)} withheld as not finite ({_steps(withheld)})")
    repetitive = [record for record in done if record.repetitive_rows]
    if repetitive:
        parts.append(f"{_rows(sum(record.repetitive_rows for record in repetitive))} left out as repetitive ({_steps_of(repetitive)})")
    if unread:
        parts.append(f"{_rows(sum(record.unread_rows for record in unread))} could not be read and NOT TRAINED ON ({_steps_of(unread)})")
    rest = "no other sample" if unread or repetitive else "no sample" if skipped else "nothing"
    return f"VERIFIED {', '.join(parts)}, {rest} skipped or repeated"


def _rows(number: int) -> str:
    return f"{number:,} row{'s' * (number != 1)}"


def _steps_of(records: Sequence[StepRecord]) -> str:
    return _steps([record.step for record in records])


def _updates(steps: Sequence[int]) -> str:
    return f"{len(steps)} update{'s' * (len(steps) != 1)}"


def _steps(steps: Sequence[int]) -> str:
    return f"step{'s' * (len(steps) != 1)} {', '.join(map(str, steps[:MANY]))}{', …' * (len(steps) > MANY)}"
