"""Where everything durable of a run lies on the store: every key, once. Pure.

    run-names/NAME                          empty; so that listing runs does not list their checkpoints
    nodes/journal/000000000001.json         what runs and people hold against machines, an event each
    runs/NAME/config/0001.json              the run's configurations, by version
              journal/000000000001.json     what happened to the run, an event each
              journal-upto/000000000500.json  entries 1 … 500 of the journal in one object
              commits/000001.json           which checkpoints count
              commits-repaired/000001.json  what a repair put in place of an unreadable one
              checkpoints/step-000000100-a0001/  manifest.json and the files that it names
              holds/step-000000100-a0001/NAME    empty; another run is to begin from that checkpoint, which stays meanwhile
              ledger/a0001/000000001-000000025.jsonl  what steps 1 … 25 of attempt 1 did
              ledger-upto/a0001/000000100.jsonl       its records up to step 100, since the object before
              ledger-series/a0001/000000000-000000100.columns  what of these records are numbers, as columns
              logs/a0001/rank-00000.log     the end of what a worker printed
              alerts/journal/000000000001.json  whom of what the run's controller told, an event each

All but the first four functions give keys below runs/NAME/, for the store that `store_of_run` returns; those of the journal also serve
below nodes/ and alerts/, for the stores that `store_of_nodes` and `store_of_alerts` return.
"""

from __future__ import annotations

import re

from data_pipeline.store.protocol import ObjectStore, with_prefix

ALERTS = "alerts/"
NAMES = "run-names/"
NODES = "nodes/"
CONFIGS = "config/"
JOURNAL = "journal/"
JOURNAL_SUMMARIES = "journal-upto/"
COMMITS = "commits/"
REPAIRED_COMMITS = "commits-repaired/"
CHECKPOINTS = "checkpoints/"
HOLDS = "holds/"
LEDGER = "ledger/"
COMPACTED_LEDGER = "ledger-upto/"
SERIES = "ledger-series/"
LOGS = "logs/"
PROBES = "doctor/"
"""Below the storage root: what `braid doctor` tries a store with."""
DOOMED = "doomed"
"""Name of the empty object that retention puts into the directory of a checkpoint that it is about to remove."""
MANIFEST = "manifest.json"
"""Name of the file, in a checkpoint's directory, that names all others."""

_JOURNAL = re.compile(rf"{JOURNAL}(\d{{12,}})\.json")
_COMMIT = re.compile(rf"{COMMITS}(\d{{6,}})\.json")
_CONFIG = re.compile(rf"{CONFIGS}(\d{{4}})\.json")
_CHECKPOINT = re.compile(rf"{CHECKPOINTS}step-(\d{{9,}})-a(\d{{4,}})/")
_HOLD = re.compile(rf"{HOLDS}step-(\d{{9,}})-a(\d{{4,}})/([^/]+)")
_SEGMENT = re.compile(rf"{LEDGER}a(\d{{4,}})/\d{{9,}}-(\d{{9,}})\.jsonl")
_COMPACTED = re.compile(rf"{COMPACTED_LEDGER}a(\d{{4,}})/(\d{{9,}})\.jsonl")
_SERIES = re.compile(rf"{SERIES}a(\d{{4,}})/(\d{{9,}})-(\d{{9,}})\.columns")
_LOG = re.compile(rf"{LOGS}a(\d{{4,}})/")


def store_of_run(store: ObjectStore, name: str) -> ObjectStore:
    """The part of a storage root that belongs to a run."""
    return with_prefix(store, f"runs/{name}/")


def certain_of_run(name: str) -> str:
    """What is below the storage root for certain, once a run was submitted: see `open_store`."""
    return f"runs/{name}/{CONFIGS}"


def store_of_nodes(store: ObjectStore) -> ObjectStore:
    """The part of a storage root that tells of its machines, and belongs to no run."""
    return with_prefix(store, NODES)


def store_of_alerts(run_store: ObjectStore) -> ObjectStore:
    """The part of a run's store that tells whom its controller told of what."""
    return with_prefix(run_store, ALERTS)


def name_key(name: str) -> str:
    """What says, below the storage root, that a run of this name exists."""
    return NAMES + name


def config_key(version: int) -> str:
    """The key of a version of the run's configuration; the first is 1."""
    return f"{CONFIGS}{version:04d}.json"


def config_version(key: str) -> int | None:
    """The inverse of `config_key`; None for any other key."""
    match = _CONFIG.fullmatch(key)
    return int(match[1]) if match else None


def journal_key(sequence: int) -> str:
    """The key of a journal entry; the first is 1."""
    return f"{JOURNAL}{sequence:012d}.json"


def journal_sequence(key: str) -> int | None:
    """The inverse of `journal_key`; None for any other key."""
    match = _JOURNAL.fullmatch(key)
    return int(match[1]) if match else None


def journal_summary_key(sequence: int) -> str:
    """The key of the object that holds every journal entry up to `sequence`."""
    return f"{JOURNAL_SUMMARIES}{sequence:012d}.json"


def commit_key(number: int) -> str:
    """The key of an entry of the commit log."""
    return f"{COMMITS}{number:06d}.json"


def commit_number(key: str) -> int | None:
    """The inverse of `commit_key`; None for any other key."""
    match = _COMMIT.fullmatch(key)
    return int(match[1]) if match else None


def repaired_commit_key(number: int) -> str:
    """The key of what is read instead of an entry of the commit log that can't be."""
    return f"{REPAIRED_COMMITS}{number:06d}.json"


def checkpoint_directory(step: int, attempt: int) -> str:
    """Where the files of a checkpoint are; attempts never share one. Ends with '/'."""
    return f"{CHECKPOINTS}step-{step:09d}-a{attempt:04d}/"


def checkpoint_of(key: str) -> tuple[str, int, int] | None:
    """(directory, step, attempt) of the checkpoint that a key belongs to; None for a key of no checkpoint."""
    match = _CHECKPOINT.match(key)
    return (match[0], int(match[1]), int(match[2])) if match else None


def manifest_key(step: int, attempt: int) -> str:
    """The key of a checkpoint's manifest."""
    return checkpoint_directory(step, attempt) + MANIFEST


def hold_key(step: int, attempt: int, run: str) -> str:
    """The key of what says that another run is to begin from a checkpoint of this one."""
    return f"{HOLDS}step-{step:09d}-a{attempt:04d}/{run}"


def hold_of(key: str) -> tuple[int, int, str] | None:
    """(step, attempt, the other run) of such a key; None for any other key."""
    match = _HOLD.fullmatch(key)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def ledger_directory(attempt: int) -> str:
    """Where the segments of an attempt are. Ends with '/'."""
    return f"{LEDGER}a{attempt:04d}/"


def segment_key(attempt: int, first_step: int, last_step: int) -> str:
    """The key of the ledger's segment from `first_step` to `last_step`."""
    return f"{segments_after(attempt, first_step)}-{last_step:09d}.jsonl"


def segments_after(attempt: int, step: int) -> str:
    """What sorts before every segment of the attempt that begins with `step` or later."""
    return f"{ledger_directory(attempt)}{step:09d}"


def segment_of(key: str) -> tuple[int, int] | None:
    """(attempt, last step) of a segment of the ledger; None for any other key."""
    match = _SEGMENT.fullmatch(key)
    return (int(match[1]), int(match[2])) if match else None


def compacted_directory(attempt: int) -> str:
    """Where the objects are that took the place of an attempt's segments. Ends with '/'."""
    return f"{COMPACTED_LEDGER}a{attempt:04d}/"


def compacted_key(attempt: int, last_step: int) -> str:
    """The key of the object that took the place of segments up to `last_step`."""
    return f"{compacted_after(attempt, last_step)}.jsonl"


def compacted_after(attempt: int, step: int) -> str:
    """What sorts before every such object of the attempt whose last step is `step` or later."""
    return f"{compacted_directory(attempt)}{step:09d}"


def compacted_of(key: str) -> tuple[int, int] | None:
    """(attempt, last step) of such an object; None for any other key."""
    match = _COMPACTED.fullmatch(key)
    return (int(match[1]), int(match[2])) if match else None


def series_directory(attempt: int) -> str:
    """Where an attempt's records are as columns. Ends with '/'."""
    return f"{SERIES}a{attempt:04d}/"


def series_key(attempt: int, after: int, last_step: int) -> str:
    """The key of the columns of an attempt's steps after `after` up to `last_step`; of its first ones `after` is 0."""
    return f"{series_directory(attempt)}{after:09d}-{last_step:09d}.columns"


def series_of(key: str) -> tuple[int, int, int] | None:
    """(attempt, after, last step) of such a key; None for any other key."""
    match = _SERIES.fullmatch(key)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def log_key(attempt: int, rank: int) -> str:
    """The key of a worker's log, which is also its path below the run's directory on its node."""
    return f"{LOGS}a{attempt:04d}/rank-{rank:05d}.log"


def attempt_of_log(key: str) -> int | None:
    """The attempt that a worker's log is of; None for any other key."""
    match = _LOG.match(key)
    return int(match[1]) if match else None
