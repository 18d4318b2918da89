"""Where things lie on the store: the layout that docs/run-directory.md tells, and that older runs have."""

import ast
from pathlib import Path

import pytest

from data_pipeline.store.protocol import InvalidKey
from orchestrator.records import keys
from tests.fakes.memory_store import MemoryStore


def test_every_key_of_a_run():
    assert [
        keys.name_key("first"),
        keys.config_key(1),
        keys.journal_key(17),
        keys.journal_summary_key(500),
        keys.commit_key(3),
        keys.manifest_key(100, 2),
        keys.segment_key(2, 1, 25),
        keys.compacted_key(2, 100),
        keys.log_key(2, 7),
    ] == [
        "run-names/first",
        "config/0001.json",
        "journal/000000000017.json",
        "journal-upto/000000000500.json",
        "commits/000003.json",
        "checkpoints/step-000000100-a0002/manifest.json",
        "ledger/a0002/000000001-000000025.jsonl",
        "ledger-upto/a0002/000000100.jsonl",
        "logs/a0002/rank-00007.log",
    ]


def test_what_belongs_to_a_run_is_below_its_name():
    store = MemoryStore()
    keys.store_of_run(store, "first").put(keys.config_key(1), b"{}")
    keys.store_of_nodes(store).put(keys.journal_key(1), b"{}")

    assert list(store.objects) == ["runs/first/config/0001.json", "nodes/journal/000000000001.json"]
    with pytest.raises(InvalidKey):
        keys.store_of_run(store, "../first")


def test_keys_are_read_back():
    assert keys.config_version(keys.config_key(12)) == 12
    assert keys.checkpoint_of(keys.manifest_key(100, 2)) == (keys.checkpoint_directory(100, 2), 100, 2)
    assert keys.segment_of(keys.segment_key(2, 1, 25)) == (2, 25)
    assert keys.compacted_of(keys.compacted_key(2, 100)) == (2, 100)
    assert keys.attempt_of_log(keys.log_key(2, 7)) == 2
    assert keys.hold_of(keys.hold_key(100, 2, "second")) == (100, 2, "second")
    readers = (keys.config_version, keys.checkpoint_of, keys.segment_of, keys.compacted_of, keys.attempt_of_log, keys.hold_of)
    assert [read("notes.txt") for read in readers] == [None] * 6


def test_the_segments_after_a_step_sort_behind_the_mark_and_the_others_before_it():
    mark = keys.segments_after(1, 20)

    assert keys.segment_key(1, 19, 40) < mark < keys.segment_key(1, 20, 20)
    assert keys.compacted_key(1, 19) < keys.compacted_after(1, 20) < keys.compacted_key(1, 20)


def literals(path: Path) -> set[str]:
    """The strings of a file, without its docstrings."""
    tree = ast.parse(path.read_text())
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation)
    return {node.value for node in constants if isinstance(node.value, str)}


@pytest.mark.parametrize("room", ["orchestrator", "launch"])
def test_no_key_of_a_run_is_spelled_anywhere_else(room: str):
    run = (
        keys.CONFIGS,
        keys.JOURNAL,
        keys.JOURNAL_SUMMARIES,
        keys.COMMITS,
        keys.CHECKPOINTS,
        keys.LEDGER,
        keys.COMPACTED_LEDGER,
        keys.LOGS,
    )
    prefixes = (keys.NAMES, keys.NODES, *run)
    home = Path(keys.__file__)
    files = [path for path in (home.parents[2] / room).rglob("*.py") if path != home]
    assert [path.name for path in files if any(text.startswith((*prefixes, "runs/")) for text in literals(path))] == []
